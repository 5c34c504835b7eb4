"""The section `blend.feedback`: what the blender learns from the feedback on published slates."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rayrec.config.section import Section

Examination = Annotated[float, Field(gt=0, le=1)]


class FeedbackLearning(Section):
    """Rewarded items of published slates as targets of the blend, weighted by inverse propensities.

    The log is that of the section `feedback`. Only ranks that a policy has drawn count: see `slate.policy`.
    """

    dates: int = Field(28, ge=1)
    """The newest published dates that count. Only dates since the oldest training cutoff do: `blend.cutoffs`."""
    attribution_days: float = Field(1.0, ge=1)
    """Days from a slate's date until its rewards are complete. Later dates do not count. At least one day and
    `feedback.attribution_hours`."""
    clip: float = Field(10.0, gt=1)
    """Largest importance weight, as a multiple of the mean: a higher one has less bias and more variance."""
    weight: float = Field(1.0, gt=0)
    """How much a rewarded item counts on average, where a consumed item counts 1."""
    examination: Literal["estimated", "none"] | tuple[Examination, ...] = "estimated"
    """P(rank is examined) over that of rank 1, by rank; the last one holds for all deeper ranks. `estimated`: from the
    log; `none`: 1 everywhere."""
