"""`tuning`: the LLM that reads histories as item tokens, and how it learns."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rayrec.config.registry import method_name
from rayrec.config.section import Section

RequestTask = Literal["specific", "vague", "search", "contrary", "explicit"]


class Tuning(Section):
    """The LLM of `rerank.method: item_token`, and how it learns, anew every night, from users' own events."""

    base: str = "scratch"
    """`scratch`, or the folder of a local Hugging Face checkpoint, tuned with LoRA or in full (`lora_rank`)."""
    layers: int = Field(2, ge=1)
    """Layers; this and the next three keys: of the model made from scratch."""
    width: int = Field(64, ge=32)
    """Its width: `heads` times a multiple of 32."""
    heads: int = Field(2, ge=1)
    """Its attention heads."""
    feedforward: int = Field(192, ge=64, multiple_of=64)
    """Its inner width: whole vectors for the kernels."""
    events: int = Field(100, ge=1)
    """Newest events in a prompt; no more than `data.history_limit` are there."""
    max_users: int = Field(1_000_000, ge=1)
    """Beyond it users are left out, chosen by a stable hash: memory bounds them."""
    instruction_tokens: int = Field(64, ge=1)
    """Tokens of an instruction; the rest is cut off."""
    task_mix: dict[RequestTask, float] = Field(
        {"specific": 0.5, "vague": 0.1, "search": 1.5, "contrary": 1.0, "explicit": 0.3}
    )
    """Prompts a user and epoch that ask for something, where an arm is asked anything. `specific`, `vague`: history and
    request; `search`: request alone; `contrary`: one against the history; `explicit`: a sentence in its place."""
    instruction_loss_weight: float = Field(2.0, ge=0)
    """How much more it weighs that an answer is what was asked for than whose it is."""
    item_init: Literal["auto", "random", "text", "collaborative", "hybrid"] = "auto"
    """Where item vectors come from: words, item factors, both; `auto`: both where something is asked, else factors."""
    min_item_events: int = Field(3, ge=1)
    """Items with fewer events are scored by their words alone, where item vectors have words; else not by the LLM."""
    horizon_days: float = Field(7.0, gt=0)
    """The model learns which new items a user takes within this time. Longer where they act rarely."""
    target_half_life_days: float = Field(28.0, ge=0)
    """A target's weight halves with this age; 0: all weigh the same. Shorter where what is new is what is taken."""
    item_dropout: float = Field(0.1, ge=0, lt=1)
    """Share of history items left out at random while learning."""
    epochs: int = Field(6, ge=1)
    """At most: the validation decides."""
    instruction_epochs: int = Field(12, ge=1)
    """Instead, where an arm is asked something: to listen takes longer to learn."""
    patience: int = Field(2, ge=1)
    """Epochs without a better validation before stopping."""
    batch_tokens: int = Field(2048, ge=256)
    """Tokens in a step, padding included; a longer prompt is a step of its own. Bounds memory."""
    learning_rate: float = Field(2e-3, gt=0)
    """The highest, after the warm-up."""
    weight_decay: float = Field(0.01, ge=0)
    """Of the matrices."""
    lora_rank: int = Field(16, ge=0)
    """Rank of the adapters, where `base` is a checkpoint; 0: none, all of it is tuned, in float32."""
    data_selection: Annotated[str, method_name("tuning.data_selection")] = "all"
    """Whom to learn from: all users, or some, selected for the users who acted last; needs `selection_budget`."""
    selection_budget: float = Field(1.0, gt=0, le=1)
    """Share of the users' sequences that are selected; below 1 exactly where `data_selection` is not `all`."""
    seed: int = 0
    """Of everything drawn at random here."""

    @model_validator(mode="after")
    def _chooses_some(self) -> Tuning:
        if self.data_selection == "all" and self.selection_budget < 1:
            raise ValueError("tuning.selection_budget below 1 needs a tuning.data_selection other than all")
        if self.data_selection != "all" and self.selection_budget == 1:
            raise ValueError(f"tuning.data_selection {self.data_selection} needs a tuning.selection_budget below 1")
        return self

    def with_epochs(self, *, has_requests: bool) -> Tuning:
        """With `epochs` as they are with requests, or without."""
        return self.model_copy(update={"epochs": self.instruction_epochs}) if has_requests else self
