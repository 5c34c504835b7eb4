"""From an item's text to the order of the slate: how far an attack can promote its item, and which others it
affects."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from attacks import ATTACKS
from oracle import load
from small_checkpoints import TITLES
from small_tables import candidate_table

from rayrec.blending.blend_features import USER_FEATURES, ItemFeatures
from rayrec.blending.blender import Blender, BlenderWeights
from rayrec.numerics.ragged import Ragged
from rayrec.reranking.engines.engine import EngineSettings
from rayrec.reranking.engines.transformers_runner import TransformersRunner
from rayrec.reranking.text import InstructCheckpoint
from rayrec.reranking.text.text_reranker import TextReranker

ITEM, LIFT = 5, 2  # the attacker's item is scored last, and is sixth of the retriever's eight
METHODS: list[tuple[str, dict[str, Any]]] = [
    ("pointwise", {}),
    ("listwise", {"window": 6, "permutations": 2}),
    ("pairwise", {"top": 6}),
]
NEUTRAL = (0.0,) * len(USER_FEATURES)
BLENDER = Blender(
    ("ease",), BlenderWeights({"ease": 1.0}, NEUTRAL), BlenderWeights({"ease": 1.0, "llm": 50.0}, NEUTRAL)
)
PRIOR = ItemFeatures(("log_age",), np.zeros((len(TITLES), 1), np.float32), 0)
USER = candidate_table(["u"], [[8, 9]], [list(range(8))], ease=[[8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]])


def order(scores: np.ndarray[tuple[int], np.dtype[np.float32]]) -> list[int]:
    return np.argsort(-scores, kind="stable").tolist()


@pytest.mark.parametrize("scorer", METHODS, ids=lambda scorer: scorer[0])
def test_no_attack_exceeds_the_rank_promotion_cap(
    qwen3: InstructCheckpoint, scorer: tuple[str, dict[str, Any]]
) -> None:
    """With pointwise, the other items' scores are bit-identical and their order is unchanged."""
    engine = TransformersRunner(qwen3.model_files, "next_token", EngineSettings(threads=1), 1200)
    started = load(scorer[0], engine, qwen3, **scorer[1])
    reranker = TextReranker(started, tuple(TITLES), tuple(TITLES), "something of Rome", depth=6)
    rose = set()
    honest = reranker(USER)
    expected = BLENDER.scores(honest, PRIOR, LIFT)[0]
    for attack in ATTACKS if scorer[0] != "pairwise" else ATTACKS[::4]:  # pairwise has many prompts a user
        after = replace(reranker, texts=(*TITLES[:ITEM], attack, *TITLES[ITEM + 1 :]))(USER)
        assert after["error"].to_pylist() == [None]
        scores, free = (BLENDER.scores(after, PRIOR, lift)[0] for lift in (LIFT, None))
        rose.add(ITEM - order(free).index(ITEM))
        assert order(scores).index(ITEM) >= ITEM - LIFT
        if scorer[0] == "pointwise":
            given, before = (Ragged.from_arrow(table["llm_score"])[0] for table in (after, honest))
            assert np.array_equal(np.delete(given, ITEM), np.delete(before, ITEM), equal_nan=True)
            assert np.array_equal(np.delete(scores, ITEM), np.delete(expected, ITEM))
            assert [o for o in order(scores) if o != ITEM] == [o for o in order(expected) if o != ITEM]
    assert max(rose) > LIFT  # without the cap some attack, or the random model, exceeds it
