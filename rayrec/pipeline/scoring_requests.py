"""How often the LLM reads.

A *reading* is one way in which the LLM scores a retrieve variant's candidates: a rerank variant, and whose rows of the
instruction table are put to it. Arms that share both share the reading. A reading's scores are the column
`llm.<reading>` of a shard's table, beside `intends.<reading>` (which users intend something: for them the LLM weighs
more) and `error`.

Under a split a reading is of the users of the arms that it serves, and of the users of every arm that explores and
whose denoising these arms share: without it nobody could say what they would have made of slates left to chance
(`looked_at`). Where a small arm's LLM is dear, an explorer beside it costs a reading of all of the explorer's users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import Rerank
from rayrec.experiments.arm_plan import ArmPath, Variant
from rayrec.instructions.instruction_table import instructions_for
from rayrec.pipeline.instruction_inputs import arms_with_requests, requests
from rayrec.pipeline.models import explores
from rayrec.pipeline.run_context import RunContext

Bools = npt.NDArray[np.bool_]

LLM_SCORE, HAS_REQUEST, SCORER = "llm.", "intends.", "way."  # begin the columns of a reading


@dataclass(frozen=True)
class ScoringRequest:
    """`arm`: whose requests are read besides those of all arms; None: nobody's in particular."""

    rerank: Variant
    arm: str | None

    @property
    def method(self) -> Rerank:
        return self.rerank.read(Rerank)

    @property
    def scorer_key(self) -> str:
        """Readings of one reader are read together."""
        return self.method.scorer_key

    @property
    def name(self) -> str:
        return self.rerank.name if self.arm is None else f"{self.rerank.name}@{self.arm}"


def scoring_request_of(context: RunContext, path: ArmPath) -> ScoringRequest | None:
    """How an arm's candidates are read; None where it asks no LLM."""
    rerank = path.at("rerank")
    if rerank.read(Rerank).method == "none":
        return None
    return ScoringRequest(rerank, path.arm if path.arm in arms_with_requests(context) else None)


def scoring_requests(context: RunContext) -> tuple[ScoringRequest, ...]:
    """Every reading once, in the order in which the arms need it."""
    found = [
        scoring_request for path in context.arms if (scoring_request := scoring_request_of(context, path)) is not None
    ]
    return tuple({scoring_request.name: scoring_request for scoring_request in found}.values())


def arms_served(context: RunContext, scoring_request: ScoringRequest) -> tuple[str, ...]:
    """The arms that a reading serves."""
    own = [(path.arm, scoring_request_of(context, path)) for path in context.arms]
    return tuple(arm for arm, one in own if one is not None and one.name == scoring_request.name)


def users_to_score(context: RunContext, arms: Sequence[str], user_ids: pa.ChunkedArray) -> Bools:
    """Which users [n] the candidates of these arms are looked at for, by the LLM and by the arms' slates: their own
    users, and those to whom another arm shows something by chance, for COUNTERFACTUAL_PROPENSITY.

    Who takes no part in the experiment is compared with nobody, so they are looked at for their own arm alone.
    """
    members, part = context.arms.members(user_ids), context.arms.participants(user_ids)
    exploring = [members[path.arm] & part for path in context.arms if explores(path)]
    found: Bools = np.any([*(members[arm] for arm in arms), *exploring], axis=0)
    return found


def instructions_of(
    context: RunContext, scoring_request: ScoringRequest, user_ids: pa.ChunkedArray
) -> tuple[pa.StringArray, pa.StringArray]:
    """What users prefer and intend, string [n] each; null where the table says nothing."""
    return instructions_for(requests(context), user_ids, scoring_request.arm or "")


def with_scores_of(table: pa.Table, scoring_request: ScoringRequest | None) -> pa.Table:
    """A shard's table with one reading's scores as `llm_score` and its `has_request`; without any where there is none."""
    out = table.select([name for name in table.column_names if not name.startswith((LLM_SCORE, HAS_REQUEST, SCORER))])
    if scoring_request is None or f"{LLM_SCORE}{scoring_request.name}" not in table.column_names:
        return out
    asked = pc.fill_null(table[f"{HAS_REQUEST}{scoring_request.name}"], False)
    return out.append_column("llm_score", table[f"{LLM_SCORE}{scoring_request.name}"]).append_column(
        "has_request", asked
    )
