"""`rerank`: how the LLM scores candidates."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from rayrec.config.registry import method_name, method_settings
from rayrec.config.section import Checkpoint, MethodSettings, Section

WITHOUT_CHECKPOINT = ("none", "item_token")
"""The methods that take no checkpoint, because they are no text rerankers."""
TUNED = "tuned"  # value of `adapter`


class Rerank(Section):
    """How the LLM scores candidates, and how far it may change their order."""

    method: Annotated[str, method_name("rerank.method")] = "item_token"
    """`item_token`: the model of `tuning`; `listwise`, `pointwise`, `pairwise`: a checkpoint of yours scores item texts
    (docs/checkpoints.md); `none`: no LLM."""
    engine: Literal["auto", "vllm", "transformers"] = "auto"
    """The LLM engine; `auto`: vLLM if it is installed. Both give the same scores within rounding."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Data type of the computation; `auto`: that of the stored weights."""
    checkpoint: Checkpoint | None = None
    """Checkpoint for `listwise`, `pointwise` and `pairwise`: a folder that is on every node, or a URL (`s3://…`) or
    `hf://organisation/name@commit`, copied once a node."""
    adapter: Checkpoint | None = None
    """A LoRA adapter for the checkpoint, in the same places; `tuned`: the job tunes one, by `text_tuning`."""
    depth: int = Field(20, ge=1)
    """Number of candidates that `listwise`, `pointwise` and `pairwise` score, in the retrievers' order. Cost grows with
    it."""
    fields: tuple[Literal["category", "description"], ...] = ("category",)
    """Item fields in a prompt beside the title, up to `settings.item_tokens`."""
    max_promotion: int | Literal["auto"] | None = "auto"
    """Rank-promotion cap: how many ranks the LLM may lift an item above the retrievers' order, 0 or more; `null`: no
    cap; `auto`: 10 for text rerankers, because sellers write item texts, and no cap for item tokens."""
    settings: Annotated[SerializeAsAny[MethodSettings], method_settings("rerank.method", "method")] = Field(
        {}, validate_default=True
    )
    """Settings of the text reranker: how much of each text enters a prompt."""

    @property
    def scorer_key(self) -> str:
        """A key that is equal for sections that give the same scores."""
        return self.model_dump_json(exclude={"max_promotion"}) if self.is_text_scorer else self.method

    @property
    def tunes_adapter(self) -> bool:
        """Whether the job tunes the adapter."""
        return self.adapter == TUNED

    @property
    def adapter_folder(self) -> str | None:
        """The folder of a given adapter."""
        return None if self.tunes_adapter else self.adapter

    @property
    def promotion_cap(self) -> int | None:
        """`max_promotion` as a number of ranks; None: no cap."""
        if self.max_promotion == "auto":
            return 10 if self.is_text_scorer else None
        return self.max_promotion

    @field_validator("max_promotion")
    @classmethod
    def _not_downwards(cls, max_promotion: int | str | None) -> int | str | None:
        if isinstance(max_promotion, int) and max_promotion < 0:
            raise ValueError("rerank.max_promotion must not be below 0")
        return max_promotion

    @property
    def ignored_keys(self) -> tuple[str, ...]:
        """Keys without effect for this method. The item-token LLM has one engine for all arms."""
        if self.is_text_scorer:
            return ()
        return ("engine", "dtype", "depth", "fields", *(("max_promotion",) if self.method == "none" else ()))

    @property
    def is_text_scorer(self) -> bool:
        """Whether the method is a text reranker on the user's own checkpoint."""
        return self.method not in WITHOUT_CHECKPOINT

    @model_validator(mode="after")
    def _has_a_checkpoint(self) -> Rerank:
        if self.is_text_scorer and self.checkpoint is None:
            raise ValueError(
                f"rerank.method {self.method} needs rerank.checkpoint: a folder, a URL, or hf://organisation/name@commit"
            )
        if not self.is_text_scorer and (self.checkpoint or self.adapter):
            raise ValueError(f"rerank.checkpoint and adapter mean nothing to rerank.method {self.method}")
        if self.tunes_adapter and getattr(self.settings, "few_shot", "none") != "none":
            raise ValueError("rerank.adapter tuned takes no few-shot examples: set few_shot to none")
        return self
