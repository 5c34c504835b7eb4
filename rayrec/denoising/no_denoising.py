"""No denoising: the control."""

from __future__ import annotations

from typing import Self

from rayrec.config.section import NoSettings
from rayrec.denoising.denoiser import DENOISERS, Arrays, Denoiser, DenoisingDecision, Histories


@DENOISERS.register
class NoDenoising(Denoiser):
    """Retains every event: the control."""

    name = "none"
    settings_class = NoSettings

    @classmethod
    def load(cls, arrays: Arrays, settings: NoSettings) -> Self:
        return cls()

    def decide(self, histories: Histories) -> DenoisingDecision:
        return DenoisingDecision.all_retained(len(histories.item.values))
