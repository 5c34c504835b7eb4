"""Pinned items in slates: the policy fills the other ranks in its order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rayrec.numerics.ragged import Ragged
from rayrec.numerics.types import Bools, Float32s, Int64s
from rayrec.slates.policies import PolicySlates
from rayrec.slates.scored_candidates import ScoredCandidates
from rayrec.slates.slate_rules import Rules


@dataclass(frozen=True)
class SelectedSlates:
    """Slates before they become rows: ragged, one row per user, best first."""

    place: Ragged  # int64 positions in the flat candidates; −1 for a pin
    code: Ragged  # int64 item codes, aligned
    propensity: Float32s  # aligned; 1 for a pin


def insert_pins(ordered: PolicySlates, scored: ScoredCandidates, rules: Rules) -> SelectedSlates:
    """Insert the rules' pinned items into the policy's slates."""
    drawn = ordered.places
    codes = scored.candidate.values[drawn.values]
    if not rules.pins:
        return SelectedSlates(drawn, drawn.like(codes), ordered.propensity)
    pin_ranks = rules.pin_ranks(drawn.lengths)
    place = Ragged.from_lengths(np.empty(0), drawn.lengths + len(rules.pins))
    place = place.like(np.full(place.offsets[-1], -1, np.int64))
    rank = np.arange(len(drawn.values)) - drawn.offsets[drawn.rows]
    for column in pin_ranks.T:
        rank += rank >= column[drawn.rows]
    at = place.offsets[drawn.rows] + rank
    code, propensity = np.empty(len(place.values), np.int64), np.ones(len(place.values), np.float32)
    place.values[at], code[at], propensity[at] = drawn.values, codes, ordered.propensity
    code[place.offsets[:-1, None] + pin_ranks] = [pin.code for pin in rules.pins]
    return SelectedSlates(place, place.like(code), propensity)


def pins_at(rank: Int64s, rows: Int64s, pin_ranks: Int64s, rules: Rules) -> tuple[Bools, Int64s]:
    """Mask of pinned cells, given their ranks (from 0) and rows, and the pinned codes (−1 elsewhere): both [cells]."""
    code = np.full(len(rank), -1, np.int64)
    for pin, column in zip(rules.pins, pin_ranks.T, strict=True):
        code[rank == column[rows]] = pin.code
    return code >= 0, code
