"""`retrieval.sources` of the config as specs: which retrievers propose candidates, how many, with which settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayrec.errors import ConfigError
from rayrec.numerics.hashing import digest
from rayrec.retrieval.retriever import retriever_class

_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")
MAX_SOURCES = 127  # a candidate's source is an int8


@dataclass(frozen=True)
class SourceSpec:
    """One entry of `retrieval.sources`. The same kind may stand there several times under different names."""

    name: str
    kind: str  # a name in rayrec.retrieval
    top: int  # so many of its best enter the union of candidates; 0: it only scores what others propose
    settings: Mapping[str, Any]

    @property
    def fit_settings(self) -> dict[str, Any]:
        ignored = retriever_class(self.kind).scoring_only
        return {key: value for key, value in self.settings.items() if key not in ignored}

    @property
    def fit_kind(self) -> str:
        """The retriever whose fit it scores with: its own kind, but for kinds that are fitted as another."""
        return retriever_class(self.kind).shares_fit_with or self.kind

    @property
    def key(self) -> str:
        """Specs with the same key share one fit."""
        return f"{self.fit_kind}-{digest(self.fit_settings)}"


def parse_sources(sources: Mapping[str, Mapping[str, Any]], candidates_per_source: int) -> tuple[SourceSpec, ...]:
    """Checked specs in the config's order. `kind` (default: the name) and `top` (default: candidates_per_source) are everyone's.

    Raises ConfigError for names, kinds or settings that cannot be.
    """
    if not 0 < len(sources) <= MAX_SOURCES:
        raise ConfigError(
            f"between 1 and {MAX_SOURCES} sources are needed, not {len(sources)}", where="retrieval.sources"
        )
    specs = []
    for name, given in sources.items():
        where = f"retrieval.sources.{name}"
        if not _NAME.fullmatch(name) or name in ("llm", "pinned"):
            raise ConfigError(
                f"{name!r} cannot be a source's name",
                where=where,
                hint="use a-z, 0-9 and _, but neither llm nor pinned",
            )
        settings = dict(given)
        kind, top = settings.pop("kind", name), settings.pop("top", candidates_per_source)
        if type(top) is not int or top < 0:
            raise ConfigError(f"top must be a whole number of at least 0, not {top!r}", where=where)
        try:
            retriever_class(str(kind)).check(settings)
        except ConfigError as error:
            raise ConfigError(error.what, where=where, hint=error.hint) from None
        specs.append(SourceSpec(name, kind, top, settings))
    if not any(spec.top for spec in specs):
        raise ConfigError(
            "no source proposes candidates", where="retrieval.sources", hint="give one of them a top above 0"
        )
    return tuple(specs)
