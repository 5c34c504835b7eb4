"""Scoring requests: which LLM scores which users' candidates for which arms, with which instruction.

A scoring request is a rerank variant together with the rows of the instruction table that it uses. Arms with the same
request share its scores.

Under `assignment: split` a request covers the users of its arms and the users of every exploring arm, because
off-policy estimates need to know what its arms would have shown. A small arm with an expensive LLM beside a large
exploring arm therefore scores all users of the exploring arm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.config import Rerank
from rayrec.experiments.arm_plan import ArmPath, ArmPlan, Variant
from rayrec.instructions.instruction_table import instructions_for
from rayrec.instructions.templates import InstructionRenderer, Templates
from rayrec.pipeline.arm_settings import explores, uses_llm
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.worker_cache import worker_cache

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ScoringRequest:
    """One LLM scoring of a retrieve variant's candidates."""

    rerank: Variant
    instruction_arm: str | None  # the arm whose instruction rows are used; None: only the rows for all arms
    arms: tuple[str, ...]  # the arms that use the scores

    @property
    def name(self) -> str:
        """The value of the column `scoring_request`."""
        return self.rerank.name if self.instruction_arm is None else f"{self.rerank.name}@{self.instruction_arm}"

    @property
    def variant(self) -> str:
        """The retrieve variant whose candidates are scored."""
        return str(self.rerank.parent)

    @property
    def method(self) -> Rerank:
        return self.rerank.read(Rerank)


def scoring_requests(context: RunContext) -> tuple[ScoringRequest, ...]:
    """The distinct scoring requests of all arms, in the order of the arms."""
    found: dict[str, ScoringRequest] = {}
    for path in context.arms:
        if (request := scoring_request_of(context, path)) is not None:
            known = found.get(request.name)
            found[request.name] = request if known is None else replace(known, arms=(*known.arms, path.arm))
    return tuple(found.values())


def scoring_request_of(context: RunContext, path: ArmPath) -> ScoringRequest | None:
    """The request of one arm considered alone; None if the arm has no LLM."""
    rerank = path.at("rerank")
    if not uses_llm(rerank):
        return None
    own = path.arm in worker_cache(context).arms_with_requests
    return ScoringRequest(rerank, path.arm if own else None, (path.arm,))


def training_requests(arms: ArmPlan) -> tuple[ScoringRequest, ...]:
    """The requests of the blender's training examples, one per rerank variant: examples carry their instruction."""
    return tuple(ScoringRequest(v, None, arms.arms_of(v)) for v in arms.variants("rerank") if uses_llm(v))


def users_to_score(arms: ArmPlan, served: Sequence[str], user_ids: pa.ChunkedArray) -> Bools:
    """Bool [n]: users that need slates or scores of the arms `served`: the arms' own users, and users of exploring arms
    (for COUNTERFACTUAL_PROPENSITY). Users outside the experiment need only their own arm."""
    members, participants = arms.members(user_ids), arms.participants(user_ids)
    exploring = [members[path.arm] & participants for path in arms if explores(path)]
    found: Bools = np.any([*(members[arm] for arm in served), *exploring], axis=0)
    return found


def has_requests(context: RunContext) -> bool:
    """Whether some user or arm has its own instruction. If so, the LLM is tuned to follow instructions."""
    return len(worker_cache(context).instructions) > 0


def instruction_prompts(
    templates: Templates, preference: pa.Array, request: pa.Array, has_history: Bools
) -> pa.StringArray:
    """The instruction in the item-token ranker's prompt, string [n]: a matching template filled with the user's texts;
    null without texts. `has_history` [n]: users with events."""
    render = InstructionRenderer(templates)

    def rendered() -> Iterator[str | None]:
        rows = zip(preference.to_pylist(), request.to_pylist(), has_history.tolist(), strict=True)
        for liked, wanted, history in rows:
            yield render(liked or "", wanted or "", history=history) if liked or wanted else None

    return pa.array(list(rendered()), pa.string())


def request_queries(context: RunContext, user_ids: pa.ChunkedArray, arms: Sequence[str]) -> list[tuple[str, ...]]:
    """The distinct requests of these users [n] over the given arms."""
    cache = worker_cache(context)
    own = dict.fromkeys(arm if arm in cache.arms_with_requests else "" for arm in arms)
    columns = [instructions_for(cache.instructions, user_ids, arm)[1].to_pylist() for arm in own]
    return [tuple(dict.fromkeys(text for text in row if text)) for row in zip(*columns, strict=True)]
