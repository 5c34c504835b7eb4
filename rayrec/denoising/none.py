"""The control: every event is kept, nothing is judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy.typing as npt

from rayrec.denoising.base import Denoiser, Histories, Verdict, register
from rayrec.settings import NoSettings, read_settings


@register
class KeepAll(Denoiser):
    """Keeps every event: the control."""

    name = "none"
    settings_kind = NoSettings

    @classmethod
    def check(cls, settings: Mapping[str, Any]) -> None:
        read_settings(NoSettings, settings, "denoise.settings (none)")

    @classmethod
    def load(cls, arrays: Mapping[str, npt.NDArray[Any]], settings: Mapping[str, Any]) -> Self:
        cls.check(settings)
        return cls()

    def judge(self, histories: Histories) -> Verdict:
        return Verdict.all_kept(len(histories.item.values))
