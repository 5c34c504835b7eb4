"""Rule counts: how many slates each rule changes, and how many slates the rules leave too short.
`slate.min_probability` counts as one.

They are measured on greedy slates: with exploration, any removed candidate shifts the random draws, so every rule would
seem to change slates. Each rule is removed on its own while the others stay.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rayrec.numerics.ragged import Ragged
from rayrec.numerics.types import Bools
from rayrec.slates.assembly import CandidatePool, SlateAssembler
from rayrec.slates.slate_rules import PINNED

SHORT, WITHHELD = "short", "min_probability"


def rule_effects(stage: SlateAssembler, found: CandidatePool, arranged: CandidatePool) -> dict[str, int]:
    """Number of slates by the rule that changes them, and `short`: slates below `slate.size` only because of the rules.
    Zeros are included.
    """
    withholds = bool(stage.min_probability and stage.blend.acceptance)
    if not stage.rules.names and not withholds:
        return {}
    chosen = stage.greedy_slates(arranged).code
    counts = {name: _changed(stage, name, found, chosen) for name in stage.rules.names}
    if withholds:
        everyone, without = np.ones(len(found.scored), np.bool_), replace(stage, min_probability=0.0)
        shown = without.greedy_slates(without.apply_rules(found)).code
        counts[WITHHELD] = int(_different(chosen, everyone, shown).sum())
    could = np.minimum(found.scored.scores.lengths, stage.size)
    return {**counts, SHORT: int((chosen.lengths < could).sum())}


def _changed(stage: SlateAssembler, name: str, found: CandidatePool, chosen: Ragged) -> int:
    """Number of slates that change without this rule. Only users with affected candidates are recomputed."""
    other = replace(stage, rules=stage.rules.without(name))
    differs = stage.rules.eligible(found.scored) != other.rules.eligible(found.scored)
    users = np.bincount(found.scored.scores.rows[differs], minlength=len(found.scored)) > 0
    if name == PINNED:
        users[:] = True
    without = other.greedy_slates(other.apply_rules(found.take_users(users))).code
    return int(_different(chosen, users, without).sum())


def _different(chosen: Ragged, users: Bools, without: Ragged) -> Bools:
    """Mask of the users [users.sum()] whose slates differ."""
    width = int(max(chosen.lengths.max(initial=0), without.lengths.max(initial=0)))
    padded = [_padded(slates, width) for slates in (chosen, without)]
    differ: Bools = (padded[0][users] != padded[1]).any(axis=1)
    return differ


def _padded(slates: Ragged, width: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    result = np.full((len(slates), width), -1, np.int64)
    result[slates.rows, np.arange(len(slates.values)) - slates.offsets[slates.rows]] = slates.values
    return result
