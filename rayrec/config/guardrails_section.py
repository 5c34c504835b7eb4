"""`guardrails`: bounds on a run that are checked before its publication."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rayrec.config.section import Section


class Guardrail(Section):
    """A bound, and what happens when a run is outside of it."""

    action: Literal["warn", "block"] = "warn"
    """`warn`: a line in the log and in the report. `block`: nothing is published (exit 4), also if it cannot be
    measured."""


class UsersGuardrail(Guardrail):
    """Users with a slate, in number and against the last published date."""

    min_users: int | None = Field(None, ge=1)
    """Smallest number of users with a slate; `null`: not checked."""
    min_share_of_previous: float | None = Field(0.5, gt=0, allow_inf_nan=False)
    """Smallest number of users with a slate, as a share of those of the last published date; `null`: not checked."""


class ServedGuardrail(Guardrail):
    """Eligible users with a slate."""

    min_share: float = Field(0.95, ge=0, le=1)
    """Smallest share of the eligible users that have a slate."""


class CoverageGuardrail(Guardrail):
    """Items of the catalogue that are in a slate."""

    min_share: float | None = Field(None, gt=0, le=1)
    """Smallest share of the catalogue that an arm shows, measured on 512 items spread over it; `null`: not checked."""


class QuarantineGuardrail(Guardrail):
    """Rows that broke their contract."""

    max_share: float | None = Field(None, ge=0, le=1)
    """Largest share of quarantined rows; `null`: 90% of `data.max_quarantine_share`."""


class DriftGuardrail(Guardrail):
    """Drift from the last published date."""

    max_psi: float | None = Field(0.25, gt=0, allow_inf_nan=False)
    """Largest population stability index of any arm: below 0.1 is stable, above 0.25 shifted; `null`: not checked."""


class Guardrails(Section):
    """Bounds on a run, checked before it is published. They are not part of a run's fingerprint: a run that was blocked
    continues with other bounds, and scores no shard again."""

    users: UsersGuardrail = UsersGuardrail()
    """Users with a slate."""
    served: ServedGuardrail = ServedGuardrail()
    """Share of the eligible users with a slate."""
    coverage: CoverageGuardrail = CoverageGuardrail()
    """Share of the catalogue in slates."""
    quarantine: QuarantineGuardrail = QuarantineGuardrail()
    """Share of quarantined rows."""
    drift: DriftGuardrail = DriftGuardrail()
    """Drift of categories, sources and history lengths."""
    score_drift: DriftGuardrail = DriftGuardrail()
    """Drift of the scores in slates."""
