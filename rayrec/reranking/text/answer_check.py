"""Whether a checkpoint answers where it is asked: the probability of the answers among all next tokens.

Scores are ratios of the answers' probabilities, so they are finite even if the checkpoint would say something else: if
its chat template begins a line of thought, or it was not trained to answer. Then they mean little.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from rayrec.errors import ConfigError
from rayrec.reranking.engines.engine import Failure
from rayrec.reranking.text.text_scorer import RankingQuery, TextScorer

_LOG = logging.getLogger(__name__)
_REFUSED, _DOUBTFUL = 1e-5, 0.05  # 4 answers of 150,000 equally likely tokens have 2.7e-5
_ITEMS = 5  # of the prompt that is tried


def answer_probability(scorer: TextScorer, query: RankingQuery) -> float | None:
    """The probability of all of the scorer's answers together, after its first prompt; None if that fails."""
    prompts = next(scorer.prompt_rounds(query))
    (answer,) = scorer.engine.next_token_log_probs(prompts[:1], scorer.ids)
    return None if isinstance(answer, Failure) else float(np.exp(answer.astype(np.float64)).sum())


def check_answers(scorer: TextScorer, texts: Sequence[str], where: str) -> None:
    """Ask the scorer about a few items. Warn where its answers are improbable; raise ConfigError below chance."""
    items = tuple(texts[:_ITEMS])
    if len(items) < 2:
        return
    found = answer_probability(scorer, RankingQuery("", items, items))
    if found is None or found >= _DOUBTFUL:
        return
    what = f"the checkpoint gives the answers of {scorer.name} a probability of {found:.1g}: it would say other words"
    hint = "check its chat template (no line of thought may begin there), or give an instruct checkpoint"
    if found < _REFUSED:
        raise ConfigError(what, where=where, hint=hint)
    _LOG.warning("%s: %s, so scores may mean little; %s", where, what, hint)
