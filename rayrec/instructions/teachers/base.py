"""What every teacher is: titles in, words that a user might have written out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar


class Teacher(ABC):
    """Words of a row depend on that row alone, not on what else is asked, and are the same every time."""

    name: ClassVar[str]

    @abstractmethod
    def preferences(self, histories: Sequence[Sequence[str]]) -> list[str | None]:
        """What somebody who took these titles (oldest first) likes, clean words; None where nothing can be said."""

    @abstractmethod
    def intentions(self, targets: Sequence[str]) -> list[str | None]:
        """What somebody who wants the item of this title asks for, clean words; None where nothing can be said."""
