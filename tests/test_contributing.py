"""The worked examples of CONTRIBUTING.md: each is executed, configured and checked against its contract."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from oracle import Oracle
from scored_candidates import scored
from small_checkpoints import TITLES, build

from rayrec.config.registry import registry
from rayrec.config.scoring_sections import Denoise, Retrieval
from rayrec.config.slate_section import Slate
from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.denoising.denoiser import Histories
from rayrec.instructions.templates import load_templates
from rayrec.numerics.ragged import Ragged
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint
from rayrec.reranking.text.text_scorer import RankingQuery
from rayrec.retrieval.retriever import FitData

_EXAMPLES = re.findall(
    r"^### A (.+?)\n.*?^```python\n(.*?)^```",
    (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf8"),
    re.MULTILINE | re.DOTALL,
)
_KEYS = {
    "retriever": ("retrieval.sources.NAME.method", "rising"),
    "denoiser": ("denoise.method", "max_age"),
    "scorer": ("rerank.method", "question"),
    "slate policy": ("slate.policy", "uniform"),
}


@pytest.fixture(scope="module", autouse=True)
def _examples_are_registered() -> Iterator[None]:
    """As if their files stood in their packages; other tests do not see them."""
    for kind, source in _EXAMPLES:
        methods = registry(_KEYS[kind][0])
        exec(compile(source, f"CONTRIBUTING.md: {kind}", "exec", dont_inherit=True), {"__name__": f"example_{kind}"})
        assert _KEYS[kind][1] in methods
    yield
    for key, name in _KEYS.values():
        del registry(key)._methods[name]


def method(kind: str) -> Any:
    key, name = _KEYS[kind]
    return registry(key).lookup(name)


def test_every_kind_of_method_has_an_example() -> None:
    assert {kind for kind, _ in _EXAMPLES} == set(_KEYS)


def test_the_retriever_prefers_items_whose_events_are_recent() -> None:
    source = Retrieval(sources={"rising": {"days": 3.0}}).sources["rising"]
    item, age = np.array([0, 0, 1, 1], np.int32), np.array([1, 2, 1, 9])
    data = FitData(
        sp.csr_matrix(np.ones((1, 3), np.float32)),
        np.zeros(4, np.int32),
        item,
        -age * MICROSECONDS_PER_DAY,
        np.ones(4, np.float32),
        0,
    )
    assert method("retriever").fit(data, source).score.tolist() == pytest.approx([2 / 3, 1 / 3, 0])


def test_the_denoiser_removes_old_interactions() -> None:
    settings = Denoise(method="max_age", settings={"days": 10.0}).settings
    item = Ragged.from_lengths(np.arange(4, dtype=np.int32), [3, 0, 1])
    ts = item.like(np.array([0, 80, 85, 0]) * MICROSECONDS_PER_DAY)
    rest = item.like(np.ones(4, np.float32))
    decision = method("denoiser").load({}, settings).decide(Histories(item, ts, rest, rest, item))
    assert decision.keep_weight.tolist() == [0, 1, 1, 1]
    assert (decision.reason > 0).tolist() == [True, False, False, False]


def test_the_policy_is_uniform_and_its_propensities_are_exact() -> None:
    policy = method("slate policy")(Slate(policy="uniform").settings)
    slates = policy.order(scored([4, 2]), 3, seed=1)
    assert slates.propensity.tolist() == pytest.approx([1 / 4, 1 / 3, 1 / 2, 1 / 2, 1])
    assert slates.places.lengths.tolist() == [3, 2]


def test_the_scorer_gives_the_log_odds_of_yes(tmp_path: Path) -> None:
    checkpoint = InstructCheckpoint.open(str(build(tmp_path, "qwen3")))
    scorer_class, engine = method("scorer"), Oracle(checkpoint, lambda _text, _count: [1.5, 0.5])
    scorer = scorer_class(engine, checkpoint, scorer_class.settings_class(), load_templates())
    (scores,) = scorer.score([RankingQuery("tea", tuple(TITLES), ("a cup", "a pot"))])
    assert scores.tolist() == pytest.approx([1.0, 1.0])
