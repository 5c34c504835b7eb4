"""What a blending method adds to the weighted sum of the conditional logit: the interface, and the methods' registry.

`logit` is the weighted sum alone. Another method is one file: a class that fits a correction on the training windows,
given the fitted blender, and that enters only if it helps held-out users.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pyarrow as pa

from rayrec.blending.blend_features import ItemFeatures
from rayrec.config.registry import Registry
from rayrec.config.section import MethodSettings
from rayrec.numerics.types import Float32s

if TYPE_CHECKING:
    from rayrec.blending.blend_fitting import TrainingWindow
    from rayrec.blending.blender import Blender, ScorerGain


class ScoreCorrection(ABC):
    """Adds to the score of each candidate, in nats, whether or not an LLM scores it."""

    name: ClassVar[str]
    settings_class: ClassVar[type[MethodSettings]]

    @classmethod
    def require(cls) -> None:
        """Raise ConfigError if a package that the method needs is missing."""
        return

    @classmethod
    @abstractmethod
    def fit(cls, windows: Sequence[TrainingWindow], blender: Blender, settings: Any) -> tuple[Self | None, ScorerGain]:
        """Fit on users without a request; None if it does not help held-out users. The gain is measured on these."""

    @abstractmethod
    def __call__(self, table: pa.Table, item_features: ItemFeatures) -> Float32s:
        """What to add to each candidate of candidate_schema rows, [candidates]. Rows are independent."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """JSON content, for `from_dict`."""

    @classmethod
    @abstractmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Create from the content of `to_dict`."""


BLENDING_METHODS: Registry[type[ScoreCorrection]] = Registry("blend.method", "blending method", ("logit",))


def with_correction(
    blender: Blender, windows: Sequence[TrainingWindow], method: str, settings: MethodSettings
) -> Blender:
    """The blender with what this method adds to it, if that helps held-out users, and with the measured gain."""
    if method in BLENDING_METHODS.built_in or not windows:
        return blender
    correction, gain = BLENDING_METHODS.lookup(method).fit(windows, blender, settings)
    return replace(blender, correction=correction, gains=(*blender.gains, gain))
