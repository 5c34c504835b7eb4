"""Leave-one-out influence, compared with embeddings of histories without the event."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from small_users import events, items

from rayrec.embeddings import Embedder, leave_one_out, most_influential
from rayrec.embeddings import interaction_influence as module

TEXTS = ["Will this person buy again?", "Does this person like lamps?"]


def test_influence_is_the_change_of_the_vector_without_the_event(embedder: Embedder) -> None:
    whole = events().take(np.array([3, 8]))
    viewer = embedder.view_builder(items())
    found = leave_one_out(embedder, viewer, whole, TEXTS)
    full = embedder.embed(viewer(whole), TEXTS)
    pulls = np.empty((2, len(whole.item), embedder.dim))
    for k in range(len(whole.item)):
        mask = np.arange(len(whole.item)) != k
        without = embedder.embed(viewer(whole.filter(mask)), TEXTS)[:, whole.user[k]]
        pulls[:, k] = full[:, whole.user[k]] - without
        np.testing.assert_allclose(found.influence[:, k], 1 - (full[:, whole.user[k]] * without).sum(1), atol=1e-6)
    for k in range(len(whole.item)):
        others = pulls[:, (whole.user == whole.user[k]) & (np.arange(len(whole.item)) != k)].sum(1)
        norms = np.linalg.norm(pulls[:, k], axis=1) * np.linalg.norm(others, axis=1)
        expected = (pulls[:, k] * others).sum(1) / np.maximum(norms, 1e-12)
        clear = norms > 1e-6
        np.testing.assert_allclose(found.alignment[clear, k], expected[clear], atol=1e-3)


def test_chunks_change_nothing(embedder: Embedder, monkeypatch: object) -> None:
    whole, viewer = events().take(np.arange(10)), embedder.view_builder(items())
    at_once = leave_one_out(embedder, viewer, whole, TEXTS)
    monkeypatch.setattr(module, "_EVENTS_AT_ONCE", 50)  # type: ignore[attr-defined]
    in_parts = leave_one_out(embedder, viewer, whole, TEXTS)
    np.testing.assert_array_equal(at_once.influence, in_parts.influence)
    np.testing.assert_array_equal(at_once.alignment, in_parts.alignment)


def test_the_only_event_of_a_user_has_alignment_zero(embedder: Embedder) -> None:
    whole = events()
    single = whole.filter(np.arange(len(whole.item)) == whole.offsets[7])
    found = leave_one_out(embedder, embedder.view_builder(items()), single, TEXTS)
    assert found.alignment.tolist() == [[0], [0]]
    assert (found.influence > 0).all()


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1), min_retained=st.integers(0, 8), seed=st.integers(0, 1000), users=st.integers(1, 60))
def test_the_most_influential_events_are_removed_within_the_budget(
    share: float, min_retained: int, seed: int, users: int
) -> None:
    whole = events().take(np.arange(users))
    alignment = np.random.default_rng(seed).uniform(-1, 1, len(whole.item)).round(1)
    gone = most_influential(whole, -alignment, share, min_retained)
    assert (alignment[gone] < 0).all()
    for user in range(users):
        own = whole.user == user
        n, out = int(own.sum()), int((gone & own).sum())
        assert out <= share * n
        assert out == 0 or n - out >= min_retained
        if out:
            assert alignment[own & gone].max() <= alignment[own & ~gone].min(initial=1)
