"""`slate`: how a slate is made from a user's scored candidates."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny, model_validator

from rayrec.config.registry import method_name, method_settings
from rayrec.config.section import MethodSettings, Section


class Pin(Section):
    """An item at a fixed rank of every slate, with propensity 1."""

    item_id: str
    """The item; ignored if it is not in the catalogue or not available."""
    rank: int = Field(ge=1)
    """Its rank, from 1; in a shorter slate it is last."""


class Range(Section):
    """The allowed range of a numeric item attribute, both ends included."""

    min: float | None = Field(None, allow_inf_nan=False)
    """Smallest allowed number; `null`: no lower end."""
    max: float | None = Field(None, allow_inf_nan=False)
    """Largest allowed number; `null`: no upper end."""
    missing: Literal["keep", "drop"] = "drop"
    """Whether items without the attribute are allowed."""

    @model_validator(mode="after")
    def _some(self) -> Range:
        if self.min is None and self.max is None:
            raise ValueError("a range needs min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}: nothing could pass")
        return self


class Rules(Section):
    """Rules of every slate, for all scores and policies. Pinned items are exempt from the other rules."""

    blocked: tuple[str, ...] = ()
    """Ids of items that are never shown."""
    pinned: tuple[Pin, ...] = ()
    """Items at a fixed rank of every slate; at least one rank is left to the policy."""
    max_per_category: int | None = Field(None, ge=1)
    """Maximum number of candidates per category, the user's best; items without a category are not capped."""
    ranges: dict[str, Range] = Field({})
    """Allowed ranges by attribute (`data.items.attributes`), for example `{price: {max: 7}}`."""

    @model_validator(mode="after")
    def _agree(self) -> Rules:
        items, ranks = [pin.item_id for pin in self.pinned], [pin.rank for pin in self.pinned]
        if len(set(items)) < len(items) or len(set(ranks)) < len(ranks):
            raise ValueError("`pinned` names an item or a rank twice")
        if both := sorted(set(items) & set(self.blocked)):
            raise ValueError(f"{both[0]!r} is both pinned and blocked")
        return self


class DiversitySettings(Section):
    """Diversification: reorders each user's best candidates before the policy."""

    method: Annotated[str, method_name("slate.diversity.method")] = "none"
    """The diversification method; `none` retains the order."""
    depth: int | None = Field(None, ge=2, le=2000)
    """How many of a user's best candidates are reordered; `null`: twice the slate size."""
    settings: Annotated[SerializeAsAny[MethodSettings], method_settings("slate.diversity.method", "method")] = Field(
        {}, validate_default=True
    )
    """Settings of the method."""


class Fallback(Section):
    """Fallback for users with little history: one source alone orders their candidates.

    Users with fewer than `below_events` positive events are eligible only if `data.min_events` is lower.
    """

    source: str
    """The source: a name in the arm's `retrieval.sources`."""
    below_events: int = Field(1, ge=1)
    """Users with fewer retained positive interactions fall back."""


class Slate(Section):
    """How a slate is made from scored candidates: rules and diversification first, then the policy, then pins."""

    size: int = Field(50, ge=1, le=1000)
    """Number of ranks; fewer where a user has fewer candidates."""
    policy: Annotated[str, method_name("slate.policy")] = "greedy"
    """How the slate is drawn from the candidates. Policies that explore publish the probability of each choice."""
    settings: Annotated[SerializeAsAny[MethodSettings], method_settings("slate.policy", "policy")] = Field(
        {}, validate_default=True
    )
    """Settings of the policy."""
    exploration_floor: float = Field(0.0, ge=0, lt=1)
    """Probability, at each of the first 20 ranks, of a uniform draw from the candidates of all arms instead of the
    policy's choice; with it the arm's feedback supports estimates of arms with other candidates. 0: none."""
    min_probability: float = Field(0.0, ge=0, lt=1)
    """Withholds candidates whose calibrated probability of being consumed within `blend.horizon_days` is lower, before
    the policy draws. Slates get shorter; each user's best candidate stays, and so do those of users on the fallback.
    0: nothing is withheld."""
    rules: Rules = Rules()
    """Rules of every slate."""
    diversity: DiversitySettings = Field(default_factory=DiversitySettings)
    """Diversification of the best candidates."""
    fallback: Fallback | None = None
    """The fallback for users with little history; `null`: their candidates are ordered by the blend, as all others."""

    @model_validator(mode="after")
    def _room(self) -> Slate:
        if beyond := [pin.item_id for pin in self.rules.pinned if pin.rank > self.size]:
            raise ValueError(f"{beyond[0]!r} is pinned beyond the slate's size, {self.size}")
        if len(self.rules.pinned) >= self.size:
            raise ValueError("`pinned` fills the whole slate: leave at least one rank")
        return self
