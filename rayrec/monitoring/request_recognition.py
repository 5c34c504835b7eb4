"""Which requests the LLM recognises: their in-vocabulary words and their facets.

A request without a recognised term changes the scores little. Texts of single users are private: they are only counted.
Texts that several users share are shown.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.schemas import ALL_USERS
from rayrec.instructions.facet_matching import FacetMatcher, FacetMatches
from rayrec.instructions.facet_scheme import BELOW, FacetScheme
from rayrec.instructions.vocabulary_filter import InVocabularyFilter, tokenize_words

REQUEST_RECOGNITION = pa.schema(
    [
        pa.field("text", pa.string()),  # preference and intention; null: texts of single users, counted together
        pa.field("texts", pa.int64(), nullable=False),  # distinct texts: 1, or the number of those of single users
        pa.field("rows", pa.int64(), nullable=False),  # rows of the instruction table with the text
        pa.field("arms", pa.string(), nullable=False),  # arms of these rows; "" for all
        pa.field("in_vocabulary", pa.string()),  # the recognised words; null: every word, or texts of single users
        pa.field("facets", pa.string()),  # facets wanted, and facets excluded; null: facets are not matched
        pa.field("recognised", pa.bool_(), nullable=False),  # whether the text has a term of the catalogue
    ]
)
_MIN_USERS = 5  # minimum users of a text that is shown; texts for all users are always shown
_MAX_TEXTS = 20_000  # distinct texts examined, the most frequent ones


def request_recognition(
    instructions: pa.Table, vocabulary: Iterable[str] | None, scheme: FacetScheme, *, matches_facets: bool
) -> pa.Table:
    """REQUEST_RECOGNITION of INSTRUCTION rows, most frequent texts first.

    `vocabulary`: the words that the LLM recognises, None: all words. `scheme`: the facets of the catalogue.
    `matches_facets`: whether the run matches facets (`rayrec.reranking.item_token.facet_boost`).
    """
    if not instructions.num_rows:
        return REQUEST_RECOGNITION.empty_table()
    texts = _distinct_texts(instructions)
    in_vocabulary = None if vocabulary is None else InVocabularyFilter(vocabulary)
    words = [None if in_vocabulary is None else in_vocabulary(text) for text in texts["text"].to_pylist()]
    matcher = FacetMatcher(scheme)
    facets = [
        _facets_text(matcher(text), scheme) if matches_facets else None for text in texts["intention"].to_pylist()
    ]
    known = frozenset(word for name in scheme.name for word in tokenize_words(name))
    shown = pc.or_(texts["everybody_any"], pc.greater_equal(texts["user_id_count_distinct"], _MIN_USERS))
    table = pa.table(
        {
            "text": pc.if_else(shown, texts["text"], None),
            "texts": [1] * len(texts),
            "rows": texts["text_count"],
            "arms": [", ".join(sorted(filter(None, arms))) for arms in texts["arm_distinct"].to_pylist()],
            "in_vocabulary": pc.if_else(shown, pa.array(words, pa.string()), None),
            "facets": pc.if_else(shown, pa.array(facets, pa.string()), None),
            "recognised": [text is None or not known.isdisjoint(text.split()) for text in words],
        }
    )
    unshown = table.filter(pc.invert(shown)).group_by("recognised", use_threads=False)  # in the order of the rows
    counts = unshown.aggregate([("texts", "sum"), ("rows", "sum")])
    hidden = [
        {"texts": row["texts_sum"], "rows": row["rows_sum"], "arms": "", "recognised": row["recognised"]}
        for row in counts.to_pylist()
    ]
    shown_rows = table.filter(shown).cast(REQUEST_RECOGNITION)
    return pa.concat_tables([shown_rows, pa.Table.from_pylist(hidden, REQUEST_RECOGNITION)])


def recognised_counts(table: pa.Table) -> tuple[int, int]:
    """The number of distinct texts of a REQUEST_RECOGNITION table, and of those with a recognised term."""
    every, recognised = (pc.sum(rows["texts"]).as_py() for rows in (table, table.filter(table["recognised"])))
    return int(every or 0), int(recognised or 0)


def _facets_text(matches: FacetMatches, scheme: FacetScheme) -> str:
    labels = [f"below {name}" if kind == BELOW else name for kind, name in zip(scheme.kind, scheme.name, strict=True)]
    excluded = [f"not {labels[facet]}" for facet in matches.exclude]
    return ", ".join([*(labels[facet] for facet in matches.include), *excluded])


def _distinct_texts(instructions: pa.Table) -> pa.Table:
    """text, intention, text_count, user_id_count_distinct, arm_distinct, everybody_any of each distinct text."""
    intention, preference = (pc.fill_null(instructions[name], "") for name in ("intention", "preference"))
    text = pc.binary_join_element_wise(intention, preference, ". ")
    table = pa.table(
        {
            "text": pc.utf8_trim(text, ". "),
            "intention": intention,
            "user_id": instructions["user_id"],
            "arm": pc.fill_null(instructions["arm"], ""),
            "everybody": pc.equal(instructions["user_id"], ALL_USERS),
        }
    )
    counted = table.group_by(["text", "intention"]).aggregate(
        [("text", "count"), ("user_id", "count_distinct"), ("arm", "distinct"), ("everybody", "any")]
    )
    ordered = counted.sort_by([("text_count", "descending"), ("text", "ascending"), ("intention", "ascending")])
    return ordered.slice(0, _MAX_TEXTS).combine_chunks()
