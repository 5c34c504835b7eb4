"""`slate`: what is made of a user's scored candidates."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny, model_validator

from rayrec.config.registry import method_name, method_settings
from rayrec.config.section import MethodSettings, Section


class Pin(Section):
    """An item that stands at one rank of everybody's slate, with propensity 1."""

    item_id: str
    """The item; left out where the catalogue does not know it or says that it is not to be had."""
    rank: int = Field(ge=1)
    """Its place, from 1; in a slate that is too short it moves up to the end."""


class Range(Section):
    """What an item's attribute may be, as a number, both ends included."""

    min: float | None = Field(None, allow_inf_nan=False)
    """The smallest number that passes; `null`: any."""
    max: float | None = Field(None, allow_inf_nan=False)
    """The largest; `null`: any."""
    missing: Literal["keep", "drop"] = "drop"
    """What becomes of items without a number there."""

    @model_validator(mode="after")
    def _some(self) -> Range:
        if self.min is None and self.max is None:
            raise ValueError("a range needs min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}: nothing could pass")
        return self


class Rules(Section):
    """What every slate obeys, whatever the scores and the policy say. Pins are free of the other rules."""

    blocked: tuple[str, ...] = ()
    """Ids of items that nobody is shown."""
    pinned: tuple[Pin, ...] = ()
    """Items that everybody is shown, at a fixed rank; at least one rank is left to the policy."""
    max_per_category: int | None = Field(None, ge=1)
    """Of each category only the user's best so many are candidates; items without a category are not capped."""
    ranges: dict[str, Range] = Field({})
    """What an attribute (`data.items.attributes`) may be, e.g. `{price: {max: 7}}`."""

    @model_validator(mode="after")
    def _agree(self) -> Rules:
        items, ranks = [pin.item_id for pin in self.pinned], [pin.rank for pin in self.pinned]
        if len(set(items)) < len(items) or len(set(ranks)) < len(ranks):
            raise ValueError("`pinned` names an item or a rank twice")
        if both := sorted(set(items) & set(self.blocked)):
            raise ValueError(f"{both[0]!r} is both pinned and blocked")
        return self


class DiversitySettings(Section):
    """Reorders each user's best candidates, so that not all of a slate is of one kind. Comes before the policy."""

    method: Annotated[str, method_name("slate.diversity.method")] = "none"
    """The name of a method; `none`: the order stays."""
    depth: int | None = Field(None, ge=2, le=2000)
    """How many of a user's best candidates are reordered; `null`: twice the slate. Those behind stay."""
    settings: Annotated[SerializeAsAny[MethodSettings], method_settings("slate.diversity.method", "method")] = Field(
        {}, validate_default=True
    )
    """Settings of the method."""


class Fallback(Section):
    """Users of whom little is known are ordered by one source alone. They come this far only with data.min_events: 0
    (or below `below_events`): it makes users ineligible before."""

    source: str
    """The source: a name in the arm's `retrieval.sources`."""
    below_events: int = Field(1, ge=1)
    """Users with fewer positive events, of those that denoising kept, fall back."""


class Slate(Section):
    """What is made of a user's scored candidates: rules and diversity first, then the policy, then pins."""

    size: int = Field(50, ge=1, le=1000)
    """Ranks of a slate; shorter where a user has fewer candidates."""
    policy: Annotated[str, method_name("slate.policy")] = "greedy"
    """How the slate is drawn from the candidates. Policies that explore publish the probability of each choice."""
    settings: Annotated[SerializeAsAny[MethodSettings], method_settings("slate.policy", "policy")] = Field(
        {}, validate_default=True
    )
    """Settings of the policy."""
    rules: Rules = Rules()
    """What every slate obeys."""
    diversity: DiversitySettings = Field(default_factory=DiversitySettings)
    """Whether and how the best candidates are mixed."""
    fallback: Fallback | None = None
    """What users of whom little is known get; `null`: the blend, as everybody."""

    @model_validator(mode="after")
    def _room(self) -> Slate:
        if beyond := [pin.item_id for pin in self.rules.pinned if pin.rank > self.size]:
            raise ValueError(f"{beyond[0]!r} is pinned beyond the slate's size, {self.size}")
        if len(self.rules.pinned) >= self.size:
            raise ValueError("`pinned` fills the whole slate: leave at least one rank")
        return self
