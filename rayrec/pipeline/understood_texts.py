"""What the run's requests and user profile texts mean: every distinct text is understood once, in parallel tasks.

The encoder runs here alone. Workers read the result, so that a text means the same in every shard and costs once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.schemas import UNDERSTOOD_TEXT
from rayrec.instructions.bm25 import Bm25
from rayrec.instructions.request_understanding import RequestUnderstanding, Understanding, searchable_words
from rayrec.instructions.title_search import NamedTitle
from rayrec.monitoring.progress import Progress
from rayrec.numerics.hashing import digest
from rayrec.pipeline.instruction_ingest import instruction_key
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.worker_cache import worker_cache
from rayrec.ray_support.cluster import task, wait_for
from rayrec.storage import layout
from rayrec.storage.tables import read_parquet, write_parquet

_TEXTS = 500  # per task
_MIN_COVERAGE = 0.6  # share of a text's words in one item's text, from which it is a search


@dataclass(frozen=True)
class UnderstoodTexts:
    """UNDERSTOOD_TEXT, looked up by text."""

    table: pa.Table

    def __getitem__(self, text: str) -> Understanding:
        """Raises KeyError for a text that is not in the instruction table."""
        row = self._rows[text]
        facets, weights = self.table["facet"][row].as_py(), self.table["weight"][row].as_py()
        titles = zip(self.table["title"][row].as_py(), self.table["title_weight"][row].as_py(), strict=True)
        return Understanding(
            tuple(zip(facets, weights, strict=True)),
            tuple(self.table["not_understood"][row].as_py()),
            tuple(NamedTitle(tuple(words), weight) for words, weight in titles),
        )

    def is_understood(self, text: str) -> bool:
        """Whether the text means a facet or a title, or has words of an item; other texts change nothing."""
        row = self._rows[text]
        return bool(self._has_meaning[row].as_py() or self.table["searchable"][row].as_py())

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {text: row for row, text in enumerate(self.table["text"].to_pylist())}

    @cached_property
    def _has_meaning(self) -> pa.ChunkedArray:
        named = (pc.greater(pc.list_value_length(self.table[name]), 0) for name in ("facet", "title"))
        return pc.or_(*named)


def understand_texts(context: RunContext) -> int:
    """Understand the texts of the instruction table, unless it is done; return their number. Needs the catalogue."""
    parts = _parts(context)
    with Progress("understand", sum(map(len, parts)), unit="texts") as progress:
        running = [
            task(_understand, 1).remote(context, part, _path(context, number))
            if not context.storage.exists(_path(context, number))
            else None
            for number, part in enumerate(parts)
        ]
        for part, one in zip(parts, running, strict=True):
            if one is not None:
                wait_for(one, name="understand")
            progress.advance(len(part))
    return sum(map(len, parts))


@lru_cache(maxsize=1)
def understood_texts(context: RunContext) -> UnderstoodTexts:
    """The result of `understand_texts`, read once per process; empty for a run without instructions."""
    paths = [_path(context, number) for number in range(len(_parts(context)))]
    parts = [read_parquet(context.storage, path, UNDERSTOOD_TEXT) for path in paths]
    return UnderstoodTexts(pa.concat_tables([UNDERSTOOD_TEXT.empty_table(), *parts]).combine_chunks())


def understood_rows(texts: Iterable[str], understanding: RequestUnderstanding, index: Bm25) -> pa.Table:
    """UNDERSTOOD_TEXT of these texts."""
    rows = []
    for text in texts:
        found = understanding(text)
        rows.append(
            {
                "text": text,
                "facet": [facet for facet, _ in found.weights],
                "weight": [weight for _, weight in found.weights],
                "not_understood": list(found.not_understood),
                "title": [title.words for title in found.titles],
                "title_weight": [title.weight for title in found.titles],
                "searchable": index.coverage(searchable_words(text)) >= _MIN_COVERAGE,
            }
        )
    return pa.Table.from_pylist(rows, UNDERSTOOD_TEXT)


def texts_meaning(context: RunContext, texts: Sequence[str | None]) -> list[Understanding]:
    """What each text means; nothing for null."""
    known, nothing = understood_texts(context), Understanding()
    found = {text: known[text] for text in set(texts) if text is not None}
    return [nothing if text is None else found[text] for text in texts]


def only_understood(context: RunContext, texts: pa.Array) -> pa.Array:
    """The texts, string [n], null where one means nothing in the catalogue."""
    known = understood_texts(context)
    kept = (text if text is not None and known.is_understood(text) else None for text in texts.to_pylist())
    return pa.array(kept, pa.string())


@lru_cache(maxsize=1)
def text_understanding(context: RunContext) -> RequestUnderstanding:
    """The rules and the encoder of the config, for the facets of the catalogue; loaded once per process."""
    cache, sentences = worker_cache(context), context.config.instruction.facet_sentences
    return RequestUnderstanding.of(cache.facets.scheme, context.encoder, sentences, cache.titles)


def _parts(context: RunContext) -> list[list[str]]:
    """The distinct texts of the instruction table, sorted, by task."""
    instructions = worker_cache(context).instructions
    columns = (instructions[name].drop_null().unique().to_pylist() for name in ("preference", "intention"))
    texts = sorted({text for column in columns for text in column})
    return [texts[start : start + _TEXTS] for start in range(0, len(texts), _TEXTS)]


def _understand(context: RunContext, texts: Sequence[str], path: str) -> None:
    rows = understood_rows(texts, text_understanding(context), worker_cache(context).item_search)
    write_parquet(context.storage, path, rows)


def _path(context: RunContext, part: int) -> str:
    encoder, sentences = context.encoder, context.facet_sentences_digest
    key = digest([instruction_key(context), encoder and encoder.digest, sentences])
    return layout.understood_texts_path(context.work_folder, key, part)
