"""The control: every event is kept, nothing is judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy.typing as npt

from rayrec.config.method_settings import NoSettings, read_settings
from rayrec.denoising.denoiser import Denoiser, DenoisingDecision, Histories, register


@register
class NoDenoising(Denoiser):
    """Keeps every event: the control."""

    name = "none"
    settings_class = NoSettings

    @classmethod
    def check(cls, settings: Mapping[str, Any]) -> None:
        read_settings(NoSettings, settings, "denoise.settings (none)")

    @classmethod
    def load(cls, arrays: Mapping[str, npt.NDArray[Any]], settings: Mapping[str, Any]) -> Self:
        cls.check(settings)
        return cls()

    def decide(self, histories: Histories) -> DenoisingDecision:
        return DenoisingDecision.all_retained(len(histories.item.values))
