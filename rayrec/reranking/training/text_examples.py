"""Examples for tuning a text reranker: the prompts that it asks at scoring time, with their right answers.

InstructRec (Zhang et al. 2023, arXiv 2305.07001) turns interactions into instructions with an answer each. Here a
user's example is one item that the user consumed after the cutoff and a few hard negatives: candidates of the
retrievers, within the depth that is scored, that the user did not consume. The text reranker
(`TextScorer.tuning_prompts`) turns them into prompts, with the templates of the train split that it scores with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.numerics.hashing import derive_seed
from rayrec.numerics.ragged import Ragged
from rayrec.reranking.engines.engine import Engine, EngineSettings, Failure, Float32, ModelFiles
from rayrec.reranking.text.text_reranker import TextReranker
from rayrec.reranking.text.text_scorer import RankingQuery, TextScorer, TuningPrompt


@dataclass(frozen=True)
class UserCandidates:
    """A user's question at the cutoff: `query` with the scored candidates, and which of them the user then consumed."""

    user: str
    query: RankingQuery
    consumed: npt.NDArray[np.bool_]  # [candidates]


@dataclass(frozen=True)
class PackedPrompts:
    """The prompts of one user with their common beginning once, and the right answer of each.

    Prompt i is `shared` + `endings[i]`. Answers are places in the scorer's `ids`.
    """

    shared: tuple[int, ...]
    endings: tuple[tuple[int, ...], ...]
    answers: tuple[tuple[int, ...], ...]  # each: the places of all right answers
    weights: tuple[float, ...]

    @property
    def tokens(self) -> int:
        """Tokens that are computed."""
        return len(self.shared) + sum(map(len, self.endings))


def user_candidates(table: pa.Table, reranker: TextReranker, now: int) -> list[UserCandidates]:
    """The users of a table of training examples (candidate_schema, `consumed`, optionally `simulated_request`) who
    consumed one of their scored candidates and left another.

    Events at or after `now` (microseconds UTC) are never shown.
    """
    item, ts = Ragged.from_arrow(table["item"]), Ragged.from_arrow(table["ts"])
    history = item.filter(ts.values < now)
    shown = table.set_column(table.column_names.index("item"), "item", history.to_arrow(pa.int32()))
    if "simulated_request" in table.column_names:
        shown = shown.append_column("request", table["simulated_request"])
    depth, queries = reranker.queries(shown)
    consumed = depth.like(Ragged.from_arrow(table["consumed"]).values[depth.values] > 0)
    users = table["user_id"].to_pylist()
    return [
        UserCandidates(user, query, consumed[row])
        for row, (user, query) in enumerate(zip(users, queries, strict=True))
        if consumed[row].any() and not consumed[row].all()
    ]


def packed_example(scorer: TextScorer, user: UserCandidates, negatives: int, seed: int, epoch: int) -> PackedPrompts:
    """The prompts of a user in an epoch: one consumed candidate and up to `negatives` others, in random order."""
    rng = np.random.default_rng(derive_seed("text tuning", seed, epoch, user.user, user.query.request))
    right = rng.choice(np.flatnonzero(user.consumed), 1)
    others = np.flatnonzero(~user.consumed)
    wrong = rng.choice(others, min(negatives, len(others)), replace=False)
    places = rng.permutation(np.concatenate([right, wrong]))
    query = replace(user.query, candidates=tuple(user.query.candidates[place] for place in places))
    return packed_prompts(scorer.tuning_prompts(query, user.consumed[places].tolist(), rng))


def packed_prompts(prompts: Sequence[TuningPrompt]) -> PackedPrompts:
    """The prompts of one user without their common beginning; every ending keeps at least its last token."""
    same = takewhile(lambda column: len(set(column)) == 1, zip(*(each.tokens[:-1] for each in prompts), strict=False))
    shared = sum(1 for _ in same)
    return PackedPrompts(
        tuple(prompts[0].tokens[:shared]),
        tuple(tuple(each.tokens[shared:]) for each in prompts),
        tuple(each.answers for each in prompts),
        tuple(each.weight for each in prompts),
    )


class PromptsAlone(Engine):
    """Stands for the engine of a scorer that only writes prompts."""

    name = "none"

    def __init__(self, model: ModelFiles, max_prompt_tokens: int) -> None:
        super().__init__(model, "next_token", EngineSettings(), max_prompt_tokens)

    def _last_hidden_states(self, prompts: Sequence[list[int]]) -> list[Float32 | Failure]:
        raise NotImplementedError("this engine scores nothing: it stands for one while prompts are written")

    def _next_token_log_probs(self, prompts: Sequence[list[int]], ids: Sequence[int]) -> list[Float32 | Failure]:
        raise NotImplementedError("this engine scores nothing: it stands for one while prompts are written")
