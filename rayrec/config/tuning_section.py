"""`tuning`: the LLM of the item-token ranker, and how it is tuned."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rayrec.config.registry import method_name
from rayrec.config.section import Checkpoint, Section

_ADAPTER_RATE, _FULL_RATE = 5e-4, 2e-5  # peak learning rates of a base's LoRA adapters, and of all its weights
RequestTask = Literal["specific", "vague", "search", "contrary", "explicit"]


class Tuning(Section):
    """The LLM of `rerank.method: item_token`, tuned on the users' events in every run."""

    base: Checkpoint = "scratch"
    """`scratch`, or a Hugging Face checkpoint, tuned with LoRA or in full (`lora_rank`): a folder that is on every
    node, or a URL (`s3://…`) or `hf://organisation/name@commit`, copied once a node."""
    layers: int = Field(2, ge=1)
    """Number of layers. This and the next three keys apply to a model from scratch."""
    width: int = Field(64, ge=32)
    """Hidden size: `heads` times a multiple of 32."""
    heads: int = Field(2, ge=1)
    """Number of attention heads."""
    feedforward: int = Field(192, ge=64, multiple_of=64)
    """Size of the feed-forward layers, a multiple of 64 for the kernels."""
    events: int = Field(100, ge=1)
    """Newest events in a prompt; at most `data.history_limit`."""
    max_users: int = Field(1_000_000, ge=1)
    """Maximum number of users, sampled by a stable hash. Bounds memory."""
    instruction_tokens: int = Field(64, ge=1)
    """Maximum tokens of an instruction; the rest is cut off."""
    task_mix: dict[RequestTask, float] = Field(
        {"specific": 0.5, "vague": 0.1, "search": 1.5, "contrary": 1.0, "explicit": 0.3}
    )
    """Prompts with a simulated instruction, per user and epoch, if any arm has requests. `specific`, `vague`: history
    and request; `search`: request alone; `contrary`: a request against the history; `explicit`: a profile text instead
    of the history."""
    instruction_loss_weight: float = Field(2.0, ge=0)
    """Weight of the instruction-satisfaction loss relative to the next-item loss."""
    item_init: Literal["auto", "random", "text", "collaborative", "hybrid"] = "auto"
    """Initialization of item vectors: from words, item factors or both; `auto`: both if any arm has requests, else
    factors."""
    min_item_events: int = Field(3, ge=1)
    """Items with fewer events are scored by their words alone, or, where item vectors have no words, not by the LLM."""
    max_items: int = Field(100_000, ge=1)
    """Most items with a vector of their own: those with the most events. Bounds memory and the work of each prompt. All
    others are as those with fewer than `min_item_events`, and retrievers propose and score them as ever."""
    horizon_days: float = Field(7.0, gt=0)
    """Days within which a user consumes a new item, which the model predicts. Set it longer for users who act
    rarely."""
    target_half_life_days: float = Field(28.0, ge=0)
    """Half-life of a target's weight, in days of age; 0: equal weights. Set it shorter where new items dominate."""
    item_dropout: float = Field(0.1, ge=0, lt=1)
    """Share of history items hidden at random during tuning."""
    epochs: int | None = Field(None, ge=1)
    """Maximum number of epochs; validation decides. `null`: 6, or 12 if any arm has requests, which take longer to
    learn."""
    patience: int = Field(2, ge=1)
    """Epochs without a better validation loss before tuning stops."""
    batch_tokens: int = Field(2048, ge=256)
    """Tokens per step, padding included; a longer prompt is a step of its own. Bounds memory."""
    learning_rate: float = Field(2e-3, gt=0)
    """Peak learning rate, after the warm-up: of a model from scratch, or of the rows that are added to a `base`."""
    base_learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate of a base's adapters, or of its weights with `lora_rank: 0`. `null`: 5e-4, or 2e-5 without
    adapters."""
    weight_decay: float = Field(0.01, ge=0)
    """Weight decay of matrices."""
    lora_rank: int = Field(16, ge=0)
    """Rank of the LoRA adapters for a checkpoint as `base`; 0: no adapters, the whole model is tuned, in float32."""
    data_selection: Annotated[str, method_name("tuning.data_selection")] = "all"
    """Selection of training users: all, or `selection_budget` of them, chosen for the users who acted last."""
    selection_budget: float = Field(1.0, gt=0, le=1)
    """Share of users to select; below 1 if and only if `data_selection` is not `all`."""
    warm_start: Literal["none", "auto"] = "none"
    """`auto`: start from the newest earlier published run's tuned model, if it has the same architecture and code
    version, no user was erased since, and consumption has not shifted. Publishing an earlier date later changes the
    run's inputs."""
    warm_start_epochs: int | None = Field(None, ge=1)
    """Maximum number of epochs of a warm start. `null`: a third of `epochs`, rounded up."""
    warm_start_max_shift: float = Field(0.5, ge=0, le=1)
    """Largest shift of consumption since the earlier model: half the sum of the differences between the items' shares
    of events in the 28 days before the two dates. Above it the tuning starts cold."""
    seed: int = 0
    """Seed of all random numbers of the tuning."""

    @model_validator(mode="after")
    def _budget_has_method(self) -> Tuning:
        if self.data_selection == "all" and self.selection_budget < 1:
            raise ValueError("tuning.selection_budget below 1 needs a tuning.data_selection other than all")
        if self.data_selection != "all" and self.selection_budget == 1:
            raise ValueError(f"tuning.data_selection {self.data_selection} needs a tuning.selection_budget below 1")
        return self

    def with_epochs(self, *, has_requests: bool) -> Tuning:
        """A copy with `epochs` set, for tuning with or without requests."""
        return self.model_copy(update={"epochs": self.epochs or (12 if has_requests else 6)})

    def as_warm(self) -> Tuning:
        """A copy with the `epochs` of a warm start."""
        return self.model_copy(update={"epochs": self.warm_start_epochs or -(-self.max_epochs // 3)})

    @property
    def base_rate(self) -> float:
        """`base_learning_rate`, or its default."""
        return self.base_learning_rate or (_ADAPTER_RATE if self.lora_rank else _FULL_RATE)

    @property
    def max_epochs(self) -> int:
        """`epochs`, or its value without requests."""
        return self.epochs or self.with_epochs(has_requests=False).max_epochs
