"""A checkpoint that would say other words than the answers is told of, or refused."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
import pytest
from oracle import Oracle, load
from small_checkpoints import TITLES

from rayrec.errors import ConfigError
from rayrec.reranking.engines.engine import Failure, Float32
from rayrec.reranking.text.answer_check import answer_probability, check_answers
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint
from rayrec.reranking.text.text_scorer import RankingQuery, TextScorer

QUERY = RankingQuery("", tuple(TITLES[:2]), tuple(TITLES[:3]))


class Elsewhere(Oracle):
    """All answers together have this probability; None: prompts fail."""

    share: float | None = 1.0

    def _next_token_log_probs(self, prompts: Sequence[list[int]], ids: Sequence[int]) -> list[Float32 | Failure]:
        super()._next_token_log_probs(prompts, ids)
        if self.share is None:
            return [Failure("it would not be read")] * len(prompts)
        return [np.full(len(ids), math.log(self.share / len(ids)), np.float32)] * len(prompts)


def scorer(checkpoint: InstructCheckpoint, share: float | None, method: str = "pointwise") -> TextScorer:
    engine = Elsewhere(checkpoint)
    engine.share = share
    more = {"window": 3} if method == "listwise" else {}
    return load(method, engine, checkpoint, **more)


@pytest.mark.parametrize("method", ["pointwise", "pairwise", "listwise"])
def test_the_probability_of_all_answers_after_one_prompt(qwen3: InstructCheckpoint, method: str) -> None:
    asked = scorer(qwen3, 0.25, method)
    found = answer_probability(asked, QUERY)
    assert found == pytest.approx(0.25, rel=1e-5)
    assert isinstance(asked.engine, Elsewhere)
    assert len(asked.engine.prompts) == 1


def test_improbable_answers_are_told_of(qwen3: InstructCheckpoint, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_answers(scorer(qwen3, 0.5), TITLES, "here")
        check_answers(scorer(qwen3, None), TITLES, "here")  # whoever scores says why prompts fail
        assert not caplog.records
        check_answers(scorer(qwen3, 0.003), TITLES, "here")
    assert "here: the checkpoint gives the answers of pointwise a probability of 0.003" in caplog.text


def test_answers_below_chance_are_refused(qwen3: InstructCheckpoint) -> None:
    with pytest.raises(ConfigError, match="it would say other words"):
        check_answers(scorer(qwen3, 1e-7), TITLES, "here")
    check_answers(scorer(qwen3, 1e-7), TITLES[:1], "here")  # nothing to rank
