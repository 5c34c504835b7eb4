"""`slate`: what is made of a user's scored candidates."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from rayrec.config.data import Section


class Pin(Section):
    item_id: str
    rank: int = Field(ge=1)


class Range(Section):
    """What an item's attribute may be, as a number, both ends included."""

    min: float | None = Field(None, allow_inf_nan=False)
    max: float | None = Field(None, allow_inf_nan=False)
    missing: Literal["keep", "drop"] = "drop"  # items without a number there

    @model_validator(mode="after")
    def _some(self) -> Range:
        if self.min is None and self.max is None:
            raise ValueError("a range needs min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}: nothing could pass")
        return self


class Rules(Section):
    """What every slate obeys, whatever the scores and the policy say. See rayrec.slates.rules."""

    blocked: tuple[str, ...] = ()  # item ids
    pinned: tuple[Pin, ...] = ()
    max_per_category: int | None = Field(None, ge=1)
    ranges: dict[str, Range] = Field({})  # by attribute (data.items.attributes)

    @model_validator(mode="after")
    def _agree(self) -> Rules:
        items, ranks = [pin.item_id for pin in self.pinned], [pin.rank for pin in self.pinned]
        if len(set(items)) < len(items) or len(set(ranks)) < len(ranks):
            raise ValueError("`pinned` names an item or a rank twice")
        if both := sorted(set(items) & set(self.blocked)):
            raise ValueError(f"{both[0]!r} is both pinned and blocked")
        return self


class Diversify(Section):
    method: str = "none"  # a name in rayrec.slates.diversity
    depth: int | None = Field(None, ge=2, le=2000)  # of a user's best candidates; None: twice the slate
    settings: dict[str, Any] = Field({})


class Fallback(Section):
    """Users of whom little is known are ordered by one source alone. They come this far only with data.min_events: 0
    (or below `below_events`): it makes users ineligible before."""

    source: str  # of the arm's retrieval.sources
    below_events: int = Field(1, ge=1)  # kept positive events


class Slate(Section):
    size: int = Field(50, ge=1, le=1000)
    policy: str = "greedy"  # a name in rayrec.slates.policies
    settings: dict[str, Any] = Field({})
    rules: Rules = Rules()
    diversify: Diversify = Diversify()
    fallback: Fallback | None = None

    @model_validator(mode="after")
    def _room(self) -> Slate:
        if beyond := [pin.item_id for pin in self.rules.pinned if pin.rank > self.size]:
            raise ValueError(f"{beyond[0]!r} is pinned beyond the slate's size, {self.size}")
        if len(self.rules.pinned) >= self.size:
            raise ValueError("`pinned` fills the whole slate: leave at least one rank")
        return self
