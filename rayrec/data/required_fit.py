"""Specification of the fits that a stage requires of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayrec.config.registry import registry
from rayrec.numerics.hashing import digest


@dataclass(frozen=True)
class RequiredFit:
    """A fit that a stage needs: a retriever's name and settings (None: those of the arm's retrieval sources).

    Stages do not import each other, so a denoiser names the fit that it needs, and one fit serves all stages.
    """

    method: str
    settings: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """The prefix of its array names: `ials.factors`, or `fism-0123456789abcdef.source`."""
        if self.settings is None:
            return self.method
        settings = registry("retrieval.sources.NAME.method").settings(self.method, self.settings)
        return f"{self.method}-{digest(settings.fit_settings)}"
