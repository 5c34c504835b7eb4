"""What was asked for in words, what the LLM heard of it, and which facets are weighed for it: a request that names
nothing that is known changes little.

A user's own words are theirs: they are counted, and shown only where several users say the same.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.schemas import ALL_USERS
from rayrec.instructions.facet_matching import FacetMatcher, FacetMatches
from rayrec.instructions.facet_scheme import BELOW, FacetScheme
from rayrec.instructions.in_vocabulary import InVocabularyFilter, tokenize_words

REQUEST_RECOGNITION = pa.schema(
    [
        pa.field("text", pa.string()),  # preference and intention; null: single users' own words, together
        pa.field("texts", pa.int64(), nullable=False),  # different ones: 1, but where they stand together
        pa.field("rows", pa.int64(), nullable=False),  # of the instruction table that say so
        pa.field("arms", pa.string(), nullable=False),  # whose; "" for all
        pa.field("heard", pa.string()),  # null: every word, or single users' own
        pa.field("weighed", pa.string()),  # the facets that are wanted, and those that are not; null: none are weighed
        pa.field("named", pa.bool_(), nullable=False),  # whether anything of the catalogue is named
    ]
)
_SHOWN_FROM = 5  # users, unless it is said for everybody
_MOST = 20_000  # different texts that are looked at, those of most rows


def request_recognition(
    requests: pa.Table, vocabulary: Iterable[str] | None, scheme: FacetScheme, *, matches_facets: bool
) -> pa.Table:
    """ASKED, most rows first; `requests`: INSTRUCTION. `taught`: the words that the LLM hears, None: all; `scheme`:
    the facets there are; `weighs`: whether those that a request names are weighed (rayrec.reranking.item_token.request_guidance)."""
    if not requests.num_rows:
        return REQUEST_RECOGNITION.empty_table()
    texts = _texts(requests)
    hearing = None if vocabulary is None else InVocabularyFilter(vocabulary)
    words = [None if hearing is None else hearing(text) for text in texts["text"].to_pylist()]
    naming = FacetMatcher(scheme)
    weighed = [_in_words(naming(text), scheme) if matches_facets else None for text in texts["intention"].to_pylist()]
    known = frozenset(word for name in scheme.name for word in tokenize_words(name))
    shown = pc.or_(texts["everybody_any"], pc.greater_equal(texts["user_id_count_distinct"], _SHOWN_FROM))
    table = pa.table(
        {
            "text": pc.if_else(shown, texts["text"], None),
            "texts": [1] * len(texts),
            "rows": texts["text_count"],
            "arms": [", ".join(sorted(filter(None, arms))) for arms in texts["arm_distinct"].to_pylist()],
            "heard": pc.if_else(shown, pa.array(words, pa.string()), None),
            "weighed": pc.if_else(shown, pa.array(weighed, pa.string()), None),
            "named": [text is None or not known.isdisjoint(text.split()) for text in words],
        }
    )
    unshown = table.filter(pc.invert(shown)).group_by("named", use_threads=False)  # in the order of the rows
    own = unshown.aggregate([("texts", "sum"), ("rows", "sum")])
    together = [
        {"text": None, "texts": row["texts_sum"], "rows": row["rows_sum"], "arms": "", "named": row["named"]}
        for row in own.to_pylist()
    ]
    return pa.concat_tables(
        [table.filter(shown).cast(REQUEST_RECOGNITION), pa.Table.from_pylist(together, REQUEST_RECOGNITION)]
    )


def _in_words(named: FacetMatches, scheme: FacetScheme) -> str:
    called = [f"below {name}" if kind == BELOW else name for kind, name in zip(scheme.kind, scheme.name, strict=True)]
    against = [f"not {called[facet]}" for facet in named.exclude]
    return ", ".join([*(called[facet] for facet in named.include), *against])


def recognised_counts(table: pa.Table) -> tuple[int, int]:
    """How many different texts there are, and how many of them name something."""
    named = table.filter(table["named"])
    return tuple(int(pc.sum(of["texts"]).as_py() or 0) for of in (table, named))  # type: ignore[return-value]


def _texts(requests: pa.Table) -> pa.Table:
    """The different texts, and who says them: text, intention, text_count, user_id_count_distinct, arm_distinct,
    everybody_any."""
    intention, preference = (pc.fill_null(requests[name], "") for name in ("intention", "preference"))
    said = pc.binary_join_element_wise(intention, preference, ". ")
    table = pa.table(
        {
            "text": pc.utf8_trim(said, ". "),
            "intention": intention,
            "user_id": requests["user_id"],
            "arm": pc.fill_null(requests["arm"], ""),
            "everybody": pc.equal(requests["user_id"], ALL_USERS),
        }
    )
    found = table.group_by(["text", "intention"]).aggregate(
        [("text", "count"), ("user_id", "count_distinct"), ("arm", "distinct"), ("everybody", "any")]
    )
    return (
        found.sort_by([("text_count", "descending"), ("text", "ascending"), ("intention", "ascending")])
        .slice(0, _MOST)
        .combine_chunks()
    )
