"""Which requests are understood: their in-vocabulary words, the facets that they mean, and what means nothing.

A request without a recognised term changes nothing. Texts of single users are private: they are only counted.
Texts that several users share are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.schemas import ALL_USERS
from rayrec.instructions.facet_scheme import BELOW, FacetScheme
from rayrec.instructions.request_understanding import Understanding
from rayrec.instructions.vocabulary_filter import InVocabularyFilter, tokenize_words

REQUEST_RECOGNITION = pa.schema(
    [
        pa.field("text", pa.string()),  # preference and intention; null: texts of single users, counted together
        pa.field("texts", pa.int64(), nullable=False),  # distinct texts: 1, or the number of those of single users
        pa.field("rows", pa.int64(), nullable=False),  # rows of the instruction table with the text
        pa.field("arms", pa.string(), nullable=False),  # arms of these rows; "" for all
        pa.field("in_vocabulary", pa.string()),  # the recognised words; null: every word, or texts of single users
        pa.field("facets", pa.string()),  # facets wanted and not wanted, with soft weights; null: as `text`
        pa.field("not_understood", pa.string()),  # the clauses that mean no facet; null: as `text`
        pa.field("recognised", pa.bool_(), nullable=False),  # whether the text has a term of the catalogue
    ]
)
_MIN_USERS = 5  # minimum users of a text that is shown; texts for all users are always shown
_MAX_TEXTS = 20_000  # distinct texts examined, the most frequent ones


def request_recognition(
    instructions: pa.Table,
    vocabulary: Iterable[str] | None,
    scheme: FacetScheme,
    meaning: Callable[[str], Understanding],
    is_understood: Callable[[str], bool],
) -> pa.Table:
    """REQUEST_RECOGNITION of INSTRUCTION rows, most frequent texts first.

    `vocabulary`: the words that the LLM recognises, None: all words. `scheme`: the facets of the catalogue. `meaning`
    of each request and profile text; `is_understood`: whether it changes anything.
    """
    if not instructions.num_rows:
        return REQUEST_RECOGNITION.empty_table()
    texts = _distinct_texts(instructions)
    in_vocabulary = None if vocabulary is None else InVocabularyFilter(vocabulary)
    words = [None if in_vocabulary is None else in_vocabulary(text) for text in texts["text"].to_pylist()]
    meant = [[meaning(part) for part in parts] for parts in _parts(texts)]
    understood = [any(is_understood(part) for part in parts) for parts in _parts(texts)]
    facets = [", ".join(filter(None, (facets_text(one, scheme) for one in both))) for both in meant]
    unheard = ["; ".join(clause for one in both for clause in one.not_understood) for both in meant]
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
            "not_understood": pc.if_else(shown, pa.array(unheard, pa.string()), None),
            "recognised": [
                meant or (text is not None and not known.isdisjoint(text.split()))
                for text, meant in zip(words, understood, strict=True)
            ],
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


def without_users(table: pa.Table, users: int) -> pa.Table:
    """REQUEST_RECOGNITION after `users` users were erased: a text that fewer than the minimum may now have is only
    counted, as the texts of single users are.

    How many of its rows were theirs is not known, so all may have been. Texts for all users have fewer rows than the
    minimum of a shown one, or stay shown by those rows.
    """
    arms = [max(1, len([arm for arm in (row or "").split(", ") if arm])) for row in table["arms"].to_pylist()]
    rows = np.array(table["rows"].to_pylist(), np.int64)
    shown = ~table["text"].is_null().to_numpy()
    unsure = shown & (rows >= _MIN_USERS) & (rows < _MIN_USERS + users * np.array(arms, np.int64))
    if not users or not unsure.any():
        return table
    kept, counted = table.filter(pa.array(shown & ~unsure)), table.filter(pa.array(~shown | unsure))
    sums = counted.group_by("recognised", use_threads=False).aggregate([("texts", "sum"), ("rows", "sum")])
    hidden = [
        {"texts": row["texts_sum"], "rows": row["rows_sum"], "arms": "", "recognised": row["recognised"]}
        for row in sums.to_pylist()
    ]
    return pa.concat_tables([kept, pa.Table.from_pylist(hidden, REQUEST_RECOGNITION)])


def recognised_counts(table: pa.Table) -> tuple[int, int]:
    """The number of distinct texts of a REQUEST_RECOGNITION table, and of those with a recognised term."""
    every, recognised = (pc.sum(rows["texts"]).as_py() for rows in (table, table.filter(table["recognised"])))
    return int(every or 0), int(recognised or 0)


def facets_text(meaning: Understanding, scheme: FacetScheme) -> str:
    """ "comedy, 1990s, family .40, not horror": strongest first, unwanted ones last, then named titles."""
    labels = [f"below {name}" if kind == BELOW else name for kind, name in zip(scheme.kind, scheme.name, strict=True)]
    parts = []
    for facet, weight in sorted(meaning.weights, key=lambda pair: (pair[1] < 0, -abs(pair[1]))):
        share = "" if abs(weight) > 0.995 else f" {abs(weight):.2f}".replace("0.", ".")
        parts.append(f"{'not ' if weight < 0 else ''}{labels[facet]}{share}")
    for title in meaning.titles:
        parts.append(f"{'not ' if title.weight < 0 else ''}title with {' '.join(title.words)!r}")
    return ", ".join(parts)


def _parts(texts: pa.Table) -> list[list[str]]:
    """The request and the profile text of each row, without missing ones."""
    columns = texts["intention"].to_pylist(), texts["preference"].to_pylist()
    return [[part for part in row if part] for row in zip(*columns, strict=True)]


def _distinct_texts(instructions: pa.Table) -> pa.Table:
    """text, intention, preference, text_count, user_id_count_distinct, arm_distinct, everybody_any by text."""
    intention, preference = (pc.fill_null(instructions[name], "") for name in ("intention", "preference"))
    text = pc.binary_join_element_wise(intention, preference, ". ")
    table = pa.table(
        {
            "text": pc.utf8_trim(text, ". "),
            "intention": intention,
            "preference": preference,
            "user_id": instructions["user_id"],
            "arm": pc.fill_null(instructions["arm"], ""),
            "everybody": pc.equal(instructions["user_id"], ALL_USERS),
        }
    )
    counted = table.group_by(["text", "intention", "preference"]).aggregate(
        [("text", "count"), ("user_id", "count_distinct"), ("arm", "distinct"), ("everybody", "any")]
    )
    ordered = counted.sort_by([("text_count", "descending"), ("text", "ascending"), ("intention", "ascending")])
    return ordered.slice(0, _MAX_TEXTS).combine_chunks()
