"""Denoising by the method that helps: the winner of a contest at earlier cutoffs, else none.

The run already stands at earlier cutoffs for the blender. There each candidate denoises the histories, at each of the
budgets, and is judged by what the users consumed after the cutoff: see rayrec.evaluation.denoising_contest. The item
model's arrays name the winner; `-1` is `none`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BeforeValidator, Field, field_validator

from rayrec.config.scoring_sections import Denoise
from rayrec.config.section import MethodSettings
from rayrec.data.required_fit import RequiredFit
from rayrec.denoising.denoiser import DENOISERS, Arrays, Denoiser, DenoisingDecision, Histories, required_array
from rayrec.denoising.no_denoising import NoDenoising
from rayrec.denoising.removal import RemovalBudget

NONE = -1  # the choice that removes nothing


def _named_by_their_method(given: Any) -> Any:
    """Default the `method` of a candidate to its name."""
    if not isinstance(given, Mapping):
        return given
    return {name: {"method": name, **one} if isinstance(one, Mapping) else one for name, one in given.items()}


Budget = Annotated[float, Field(gt=0, le=1)]


class AutoSettings(MethodSettings):
    candidates: Annotated[dict[str, Denoise], BeforeValidator(_named_by_their_method)] = Field(
        {"influence": {}, "ease": {}}, validate_default=True, min_length=1
    )
    """The methods to try, each `{method, settings}`; `method` defaults to the name. `none` always takes part."""
    budgets: tuple[Budget, ...] = Field((0.1, 0.2), min_length=1, strict=False)
    """Each candidate is tried with each of these as its `max_removed_share`."""
    max_tail_share: float = Field(0.3, ge=0, le=1)
    """A candidate that removes a larger share of the tail's events cannot win. The tail: the least popular items, with
    a fifth of all events."""
    judge: Literal["refit", "inputs"] = "refit"
    """`refit`: the judge is fitted on the denoised histories and scores from them; `inputs`: it is fitted on all
    events, and only scores from the denoised histories."""
    min_users: int = Field(50, ge=2)
    """With fewer users who consumed something after an earlier cutoff, `none` wins."""
    max_users: int = Field(20_000, ge=2)
    """Most users per cutoff whose slates are judged."""
    max_events: int = Field(1_000_000, ge=1)
    """Most events per cutoff that the judge is fitted on, in whole users."""
    max_items: int = Field(3_000, ge=1)
    """Most items that the judge ranks, the most popular ones: its fit is cubic in them."""

    @field_validator("candidates")
    @classmethod
    def _no_contest_within(cls, candidates: dict[str, Denoise]) -> dict[str, Denoise]:
        for name, one in candidates.items():
            if one.method in ("auto", "none"):
                raise ValueError(f"{name}: {one.method} cannot be a candidate; none always takes part")
        return candidates


@dataclass(frozen=True)
class Contestant:
    """A candidate at one budget."""

    name: str
    denoise: Denoise


def contestants(settings: AutoSettings) -> tuple[Contestant, ...]:
    """All candidates at all budgets, in the config's order. A method without a budget is tried once."""
    found = []
    for name, one in settings.candidates.items():
        if not isinstance(one.settings, RemovalBudget):
            found.append(Contestant(name, one))
            continue
        for budget in settings.budgets:
            own = one.settings.model_copy(update={"max_removed_share": budget})
            found.append(Contestant(f"{name} {budget:g}", one.model_copy(update={"settings": own})))
    return tuple(found)


@DENOISERS.register
class AutoDenoiser(Denoiser):
    """Applies the candidate that won at earlier cutoffs, or none. Needs the `choice` [1] and the winner's arrays."""

    name = "auto"
    settings_class = AutoSettings

    def __init__(self, chosen: Denoiser) -> None:
        self.chosen = chosen

    @classmethod
    def members(cls, settings: AutoSettings) -> tuple[tuple[type[Denoiser], Any], ...]:
        return tuple((DENOISERS.lookup(one.denoise.method), one.denoise.settings) for one in contestants(settings))

    @classmethod
    def required_fits(cls, settings: AutoSettings) -> tuple[RequiredFit, ...]:
        found = (fit for method, own in cls.members(settings) for fit in method.required_fits(own))
        return tuple({fit.name: fit for fit in found}.values())

    @classmethod
    def load(cls, arrays: Arrays, settings: AutoSettings) -> Self:
        choice = int(required_array(arrays, f"{cls.fit_key(settings)}.choice", cls.name)[0])
        if choice == NONE:
            return cls(NoDenoising())
        method, own = cls.members(settings)[choice]
        return cls(method.load(arrays, own))

    def to(self, device: torch.device) -> Self:
        return type(self)(self.chosen.to(device))

    def decide(self, histories: Histories) -> DenoisingDecision:
        return self.chosen.decide(histories)
