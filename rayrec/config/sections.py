"""The sections of the config that say what is done with the data, and on what machines."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from rayrec.config.data import Section
from rayrec.config.slates import Slate


class Denoise(Section):
    method: str = "influence"  # a name in rayrec.denoising; "none" keeps everything
    settings: dict[str, Any] = Field({})


class Retrieval(Section):
    sources: dict[str, dict[str, Any]] = Field(
        {
            "ease": {},
            "ease_recent": {"kind": "ease", "history_half_life_days": 14.0},
            "item_knn": {"top": 0},
            "user_knn_2d": {"kind": "user_knn", "half_life_days": 2.0},
            "user_knn_7d": {"kind": "user_knn", "half_life_days": 7.0},
            "user_knn_28d": {"kind": "user_knn", "half_life_days": 28.0, "top": 0},
            "popularity": {"top": 0},
            "recent_popularity_1d": {"kind": "recent_popularity", "half_life_days": 1.0},
            "recent_popularity_8d": {"kind": "recent_popularity", "half_life_days": 8.0},
        }
    )
    """Name -> `kind` (a retriever; default: the name), `top` (default: per_source) and the retriever's own settings."""
    per_source: int = Field(100, ge=1)  # top N of each source enter the union
    request_top: int = Field(100, ge=0)  # so many items that match the words of a request enter the union too
    exclude_seen: bool = True


class Fit(Section):
    """Bounds of the item model's fit."""

    max_events: int = Field(20_000_000, ge=1)  # beyond it whole users are left out, chosen by their stable hash


class Blend(Section):
    """How the final score is learned: on the days before the date, cut by cut, with everything fitted before it."""

    cuts: int = Field(2, ge=0)  # 0: nothing is learned, the default weights stand
    horizon_days: float = Field(7.0, gt=0)  # what users took within this time after a cut is what is learned
    min_events: int = Field(3, ge=0)  # users with fewer positive events before the cut do not teach
    sample_users: int = Field(
        40_000, ge=1
    )  # users looked at, chosen by their stable hash; those who took something teach
    l2: float = Field(1e-3, gt=0)


class Instruction(Section):
    """What is asked for, in words, where data.instructions says nothing for a user and arm."""

    text: str = "Recommend what this user will want next."
    max_chars: int = Field(300, ge=1)  # of a preference or an intention
    templates: str | None = None  # a YAML file to use instead of rayrec/instructions/templates/


Form = Literal["specific", "vague", "search", "contrary", "explicit"]  # see rayrec.reranking.tuning_requests


class Tuning(Section):
    base: str = "scratch"  # or the path of a local Hugging Face checkpoint, tuned with LoRA
    layers: int = Field(2, ge=1)  # layers to feedforward: of the model made from scratch
    width: int = Field(64, ge=32)
    heads: int = Field(2, ge=1)
    feedforward: int = Field(192, ge=64, multiple_of=64)  # whole vectors for the kernels
    events: int = Field(100, ge=1)  # newest events in a prompt
    max_users: int = Field(1_000_000, ge=1)  # beyond it users are left out, chosen by a stable hash: memory bounds them
    words: int = Field(64, ge=1)  # tokens of an instruction that are read
    forms: dict[Form, float] = Field({"specific": 0.5, "vague": 0.1, "search": 1.5, "contrary": 1.0, "explicit": 0.3})
    """Prompts per user and epoch that ask for something, besides the plain one; only where an arm is asked anything."""
    obedience: float = Field(2.0, ge=0)  # how much more it weighs that an answer is what was asked for, not whose it is
    items_from: Literal["auto", "random", "text", "collaborative", "hybrid"] = "auto"
    """Where item vectors come from: words, item factors, both; auto: both where something is asked, else factors."""
    min_item_events: int = Field(3, ge=1)
    """Items with fewer events are scored by their words alone, where item vectors have words; else not by the LLM."""
    horizon_days: float = Field(7.0, gt=0)  # the model learns which new items a user takes within this time
    target_half_life_days: float = Field(28.0, ge=0)  # a target's weight halves with this age; 0: all weigh the same
    item_dropout: float = Field(0.1, ge=0, lt=1)  # share of history items left out at random while learning
    epochs: int = Field(6, ge=1)  # at most: the validation decides
    asked_epochs: int = Field(12, ge=1)  # instead, where an arm is asked something: to listen takes longer to learn
    patience: int = Field(2, ge=1)  # epochs without a better validation before stopping
    batch_tokens: int = Field(2048, ge=256)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    lora_rank: int = Field(16, ge=1)
    choose: Literal["all", "random", "similar", "diverse", "influence"] = "all"
    """Whom to learn from: all users, or by rayrec.reranking.choosing some, for the users who acted last."""
    budget: float = Field(1.0, gt=0, le=1)  # share of the users' sequences that are chosen
    seed: int = 0

    @model_validator(mode="after")
    def _chooses_some(self) -> Tuning:
        if self.choose == "all" and self.budget < 1:
            raise ValueError("tuning.budget below 1 needs tuning.choose: random, similar, diverse or influence")
        if self.choose != "all" and self.budget == 1:
            raise ValueError(f"tuning.choose {self.choose} needs tuning.budget: the share of users to choose, below 1")
        return self

    def planned(self, *, asked: bool) -> Tuning:
        """With `epochs` as they are where something is asked, or nothing."""
        return self.model_copy(update={"epochs": self.asked_epochs}) if asked else self


class Rerank(Section):
    method: Literal["none", "item_token", "label", "yes_no", "pairwise"] = "item_token"
    engine: Literal["auto", "vllm", "transformers"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    checkpoint: str | None = None  # the folder that label, yes_no and pairwise read with (docs/checkpoints.md)
    adapter: str | None = None  # a LoRA folder on top of it
    depth: int = Field(20, ge=1)  # candidates that label, yes_no and pairwise read, those the retrievers like best
    fields: tuple[Literal["category", "description"], ...] = ("category",)
    """What label, yes_no and pairwise read of an item beside its title, as far as settings.item_tokens go."""
    lift: int | Literal["auto"] | None = "auto"
    """Places that the LLM may lift an item above the retrievers' order; null: any; auto: 10 where it reads the items'
    texts, which sellers write, any by item tokens, where it does not."""
    settings: dict[str, Any] = Field({})  # of the way: how much of each text enters a prompt

    @property
    def reader(self) -> str:
        """Methods that give the same scores read as one."""
        return self.model_dump_json(exclude={"lift"}) if self.reads_text else self.method

    @property
    def lift_bound(self) -> int | None:
        """`lift` in places; None: any."""
        if self.lift == "auto":
            return 10 if self.reads_text else None
        return self.lift

    @field_validator("lift")
    @classmethod
    def _not_downwards(cls, lift: int | str | None) -> int | str | None:
        if isinstance(lift, int) and lift < 0:
            raise ValueError("rerank.lift must not be below 0")
        return lift

    @property
    def unread(self) -> tuple[str, ...]:
        """Keys that mean nothing to an arm of this method; what runs the LLM tuned here is the same for all arms."""
        if self.reads_text:
            return ()
        return ("engine", "dtype", "depth", "fields", *(("lift",) if self.method == "none" else ()))

    @property
    def reads_text(self) -> bool:
        """Whether a checkpoint of the user's reads titles."""
        return self.method not in ("none", "item_token")

    @model_validator(mode="after")
    def _has_a_checkpoint(self) -> Rerank:
        if self.reads_text and self.checkpoint is None:
            raise ValueError(f"rerank.method {self.method} needs rerank.checkpoint: the folder of a checkpoint")
        if not self.reads_text and (self.checkpoint or self.adapter or self.settings):
            raise ValueError(f"rerank.checkpoint, adapter and settings mean nothing to rerank.method {self.method}")
        return self


class Arm(Section):
    """One variant of the scoring settings: what differs from the top-level sections (rayrec.config.inherited).

    A key that is not given is as in the top-level section, at every depth: `slate: {policy: epsilon}` keeps size and
    rules. A list stands for the whole list, `retrieval.sources` for all sources. `settings` are merged, unless the arm
    names another method (or policy) than the top level: those of the other are not inherited, nor is the adapter of
    another checkpoint, nor any checkpoint where `rerank.method` reads with none.
    """

    denoise: Denoise | None = None
    retrieval: Retrieval | None = None
    rerank: Rerank | None = None
    slate: Slate | None = None
    share: float = Field(1.0, gt=0)


class Within(Section):
    """An experiment inside a layer: users whom another salt puts into [low, high) of [0, 1) take part.

    Give the salt of an earlier experiment and the range of one of its arms to nest this one in that arm; users keep
    their place for as long as the salts stay.
    """

    salt: str
    low: float = Field(0.0, ge=0, lt=1)
    high: float = Field(1.0, gt=0, le=1)
    others: str  # the arm of those who do not take part; they are compared with nobody

    @model_validator(mode="after")
    def _some_room(self) -> Within:
        if self.low >= self.high:
            raise ValueError("arms.within needs low below high")
        return self


class Arms(Section):
    """The first arm is the baseline that the others are compared with."""

    assignment: Literal["all", "split"] = "all"  # every user in every arm, or each in one, by its share
    salt: str = "rayrec"  # another salt is another, independent split
    within: Within | None = None
    sample_ratio_p: float = Field(1e-3, ge=0, lt=1)  # a split less likely than this is not published; 0: never asked
    variants: dict[str, Arm]

    @model_validator(mode="after")
    def _known(self) -> Arms:
        if not self.variants:
            raise ValueError("at least one arm is needed")
        if self.within and self.within.others not in self.variants:
            raise ValueError(f"arms.within.others: there is no arm {self.within.others!r}")
        if self.within and self.within.salt == self.salt:
            raise ValueError("arms.within.salt must differ from arms.salt, or the split would follow the layer")
        return self


class Resources(Section):
    """What the job asks of the cluster. Never changes a result, so it is left out of the fingerprint."""

    ingest_tasks: int | None = Field(None, ge=1)  # None: as many as the cluster has CPUs
    score_tasks: int | None = Field(None, ge=1)
    fit_num_cpus: float = Field(2, gt=0)  # of the task that fits the item model; at most the largest node's
    tune_workers: int = Field(1, ge=1)
    tune_num_cpus: float = Field(2, gt=0)  # of each worker; at most the largest node's
    tune_num_gpus: Literal[0, 1] = 0
    rerank_actors: int | tuple[int, int] = 1  # number, or (min, max) to autoscale
    rerank_num_gpus: float = Field(0, ge=0)  # of each actor: a part of one, or whole ones
    rerank_device: Literal["auto", "cpu"] = "auto"  # auto: CUDA where rerank_num_gpus is above 0
    rerank_num_cpus: float = Field(1, ge=0, allow_inf_nan=False)
    rerank_threads: int = Field(1, ge=1)  # of a CPU engine; with more, last bits may differ between runs
    local_cpus: int | None = Field(None, ge=1)  # of a local Ray; None: the machine's
    local_object_store_mb: int = Field(1024, ge=128)  # of a local Ray; beyond it Ray spills to disk
    vllm: dict[str, Any] = Field({})
    """Passed to vllm.LLM: gpu_memory_utilization, tensor_parallel_size, max_num_batched_tokens, ...; nothing that
    scores depend on (rayrec.reranking.vllm_arguments)."""

    @field_validator("rerank_actors")
    @classmethod
    def _some_actors(cls, actors: int | tuple[int, int]) -> int | tuple[int, int]:
        least, most = (actors, actors) if isinstance(actors, int) else actors
        if not 1 <= least <= most:
            raise ValueError("give a number of at least 1, or [min, max] with 1 <= min <= max")
        return actors

    @field_validator("rerank_num_gpus")
    @classmethod
    def _whole_above_one(cls, gpus: float) -> float:
        if gpus > 1 and not gpus.is_integer():
            raise ValueError("more than one GPU is a whole number of them")
        return gpus


class Output(Section):
    root: str = "out"
    examples: int = Field(3, ge=0)  # users shown at the end of the job
