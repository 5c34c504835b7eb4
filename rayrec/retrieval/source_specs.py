"""Specs of `retrieval.sources`: the configured retrievers, their numbers of candidates and their settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from rayrec.config import Retrieval
from rayrec.config.scoring_sections import RetrieverSettings
from rayrec.numerics.hashing import digest
from rayrec.retrieval.retriever import RETRIEVERS, Retriever


@dataclass(frozen=True)
class SourceSpec:
    """One entry of `retrieval.sources`. A retriever may occur several times under different names."""

    name: str
    method: str  # a name in RETRIEVERS
    top_k: int  # number of its best items that are proposed; 0: it only scores what others propose
    settings: RetrieverSettings

    @classmethod
    def of(cls, name: str, method: str, top_k: int = 0, **settings: Any) -> Self:
        """Create a spec. Raises ConfigError for settings that the retriever does not have."""
        return cls(name, method, top_k, RETRIEVERS.settings(method, settings))

    @property
    def retriever(self) -> type[Retriever]:
        return RETRIEVERS.lookup(self.method)

    @property
    def fit_method(self) -> str:
        """The retriever whose fit it uses: itself, or the one of `shares_fit_with`."""
        return self.retriever.shares_fit_with or self.method

    @property
    def key(self) -> str:
        """Fit key: specs with the same key share one fit."""
        return f"{self.fit_method}-{digest(self.settings.fit_settings)}"


def source_specs(retrieval: Retrieval) -> tuple[SourceSpec, ...]:
    """Specs of all sources, in the config's order."""
    return tuple(
        SourceSpec(
            name,
            settings.method,
            retrieval.candidates_per_source if settings.top_k is None else settings.top_k,
            settings,
        )
        for name, settings in retrieval.sources.items()
    )
