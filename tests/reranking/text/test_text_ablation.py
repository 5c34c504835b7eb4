"""Text ablation: which items are sampled, what is measured, and detection of an item whose text manipulates the
checkpoint."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from oracle import PlainScorer
from small_tables import candidate_table

from rayrec.monitoring.item_text_effects import item_text_effects
from rayrec.reranking.text.text_ablation import ablate_texts
from rayrec.reranking.text.text_reranker import TextReranker

ITEMS, PLAIN = 12, 11  # the last item has only a title
TITLES = tuple(f"item {code:02d}" for code in range(ITEMS))
TEXTS = tuple(title if code == PLAIN else title + ": fine" for code, title in enumerate(TITLES))
PUSHY = (*TEXTS[:7], "item 07: fine, the best, buy it", *TEXTS[8:])


def table(users: int = 30) -> pa.Table:
    """All users have all items, later ones ranked lower by the retriever."""
    names, scores = [f"user {n}" for n in range(users)], [float(ITEMS - code) for code in range(ITEMS)]
    found = candidate_table(names, [[0]] * users, [list(range(ITEMS))] * users, ease=[scores] * users)
    return found.append_column("request", pa.array([f"request {n}" for n in range(users)]))


def reader(texts: tuple[str, ...] = PUSHY, depth: int = ITEMS) -> TextReranker:
    return TextReranker(PlainScorer(len, 100), texts, TITLES, "anything", depth)


def test_item_promoted_by_its_text_is_sampled_and_stands_out() -> None:
    one = reader()
    found = ablate_texts(one, one(table()), users=20, seed=1)
    assert found.num_rows == 40
    code, shift = found["item"].to_numpy(), found["score"].to_numpy() - found["score_title_only"].to_numpy()
    assert (code == 7).sum() == 20  # of each user the one that rose furthest
    assert len(set(code.tolist())) > 5  # and a random one
    assert PLAIN not in code
    np.testing.assert_array_equal(shift, [len(PUSHY[item]) - len(TITLES[item]) for item in code])
    assert found["score"].to_numpy().max() == len(PUSHY[7]) - 100
    shown = item_text_effects("by length", found, pa.array(TITLES)).to_pylist()
    assert shown[0] == {
        "method": "by length",
        "title": "item 07",
        "scores": 20,
        "score_difference": len(PUSHY[7]) - len(TITLES[7]),
        "median_difference": len(": fine"),
        "items": len(set(code.tolist())),
    }
    assert len(shown) == 1


def test_rest_of_the_prompt_is_unchanged() -> None:
    one = reader()
    scored = one(table(1))
    (whole,) = one.scorer.queries  # type: ignore[attr-defined]
    ablate_texts(one, scored, users=1, seed=1)
    for again in one.scorer.queries[1:]:  # type: ignore[attr-defined]
        assert (again.request, again.history) == (whole.request, whole.history)
        changed = [k for k in range(ITEMS) if again.candidates[k] != whole.candidates[k]]
        assert [again.candidates[k] for k in changed] == [TITLES[k] for k in changed]
        assert len(changed) == 1


def test_sample_depends_on_the_seed_not_on_the_batch() -> None:
    one = reader()
    scored = one(table())
    found = ablate_texts(one, scored, users=10, seed=3)
    assert found == ablate_texts(one, scored.take(pa.array(np.arange(30)[::-1])), users=10, seed=3)
    assert found != ablate_texts(one, scored, users=10, seed=4)


def test_failures_and_items_with_only_a_title_are_left_out() -> None:
    failing = reader()
    failing.scorer.fails = "request 0"  # type: ignore[attr-defined]
    assert ablate_texts(failing, failing(table(1)), users=5, seed=0).num_rows == 0
    later = reader()
    scored = later(table(1))
    later.scorer.fails = "request 0"  # type: ignore[attr-defined]
    assert ablate_texts(later, scored, users=5, seed=0).num_rows == 0
    bare = reader(texts=TITLES)
    assert ablate_texts(bare, bare(table(3)), users=5, seed=0).num_rows == 0
    assert len(bare.scorer.queries) == 3  # type: ignore[attr-defined]
    one = reader(depth=1)
    assert ablate_texts(one, one(table(3)), users=5, seed=0)["item"].to_pylist() == [0, 0, 0]
    assert ablate_texts(one, one(table(0)), users=5, seed=0).num_rows == 0


def test_without_ablations_nothing_is_shown() -> None:
    empty = pa.table({"item": pa.array([], pa.int32()), "score": pa.array([], pa.float32())})
    assert (
        item_text_effects("x", empty.append_column("score_title_only", empty["score"]), pa.array(TITLES)).num_rows == 0
    )


def test_candidates_that_are_asked_alone_are_asked_alone_again() -> None:
    """The same result with one prompt for each sampled candidate instead of all candidates of its user."""
    together, alone = reader(), reader()
    alone.scorer.asks_each_alone = True  # type: ignore[misc]
    one, other = (ablate_texts(each, each(table(5)), users=5, seed=1) for each in (together, alone))
    assert one.equals(other)
    again = alone.scorer.queries[5:]  # type: ignore[attr-defined]
    assert len(again) == 10
    assert {len(query.candidates) for query in again} == {1}
    assert {len(query.candidates) for query in together.scorer.queries} == {ITEMS}  # type: ignore[attr-defined]
