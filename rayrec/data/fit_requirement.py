"""What a stage asks of the night's fits, as plain data: stages do not know each other, and one fit serves them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayrec.numerics.hashing import digest


@dataclass(frozen=True)
class RequiredFit:
    """A fit by its kind (a name in rayrec.retrieval), of these settings; None: whichever an arm's sources have."""

    kind: str
    settings: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """What the names of its arrays begin with: `ials.factors`, or `fism-0123456789abcdef.source`."""
        return self.kind if self.settings is None else f"{self.kind}-{digest(self.settings)}"
