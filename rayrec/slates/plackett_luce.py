"""Plackett-Luce slate policy: rank by rank without replacement, P proportional to exp(score / temperature)."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from rayrec.config.section import MethodSettings
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.top_k import best, padded_rows
from rayrec.numerics.types import Bools, Float32s, Float64s, Int64s
from rayrec.slates.marginal_propensities import plackett_luce_marginals
from rayrec.slates.policies import POLICIES, PolicySlates, SlatePolicy, uniform_draws
from rayrec.slates.scored_candidates import ScoredCandidates

_TINY = np.finfo(np.float32).tiny  # the smallest propensity: the contract requires values above 0


class PlackettLuceSettings(MethodSettings):
    temperature: float = Field(1.0, gt=0)
    """Divisor of the scores, above 0; lower values are greedier."""


@POLICIES.register
class PlackettLuce(SlatePolicy):
    """Draws rank by rank without replacement, P proportional to exp(score / temperature).

    Sorting by score / temperature + Gumbel noise draws such a sample (Yellott 1977).
    """

    name = "plackett_luce"
    settings_class = PlackettLuceSettings
    explores = True
    settings: PlackettLuceSettings

    def order(self, scored: ScoredCandidates, size: int, seed: int) -> PolicySlates:
        logits = self._logits(scored)
        noise = -np.log(-np.log(uniform_draws(seed, scored.user_ids, scored.scores.lengths)[0]))
        places = best(scored.scores.like((logits + noise).astype(np.float32)), size)
        return PolicySlates(places, self.probability(scored, places, size, seed))

    def probability(self, scored: ScoredCandidates, given: Ragged, size: int, seed: int) -> Float32s:
        """As the base class. Computed in logarithms, summing the remaining mass from the last rank up, so that neither
        cancellation nor low temperatures lose precision.
        """
        logits = self._logits(scored)
        others = np.ones(len(logits), np.bool_)
        others[given.values[given.values >= 0]] = False
        rest = _log_mass(scored.scores.like(logits), others)
        result = np.zeros(len(given.values), np.float32)
        for block in padded_rows(given.offsets):
            place = np.where(block.mask, given.values[block.take], -1)
            own = np.where(place >= 0, logits[place] if len(logits) else -np.inf, -np.inf)
            from_the_end = np.concatenate([rest[block.rows, None], own[:, ::-1]], axis=1)
            left = np.logaddexp.accumulate(from_the_end, axis=1)[:, :0:-1]
            real = (place >= 0) & (np.arange(place.shape[1]) < size)
            result[block.take[real]] = np.clip(np.exp(own[real] - left[real]), _TINY, 1)
        return result

    def first_choice(self, scored: ScoredCandidates, seed: int) -> Float32s:
        logits = self._logits(scored)
        mass = _log_mass(scored.scores.like(logits), np.ones(len(logits), np.bool_))
        return np.clip(np.exp(logits - mass[scored.scores.rows]), _TINY, 1).astype(np.float32)

    def marginal(self, scored: ScoredCandidates, given: Ragged, seed: int) -> Float64s:
        found = plackett_luce_marginals(scored.scores.like(self._logits(scored)), given)
        possible = (given.values >= 0) & (_rank(given) < scored.scores.lengths[given.rows])
        return np.where(possible, np.clip(found, _TINY, 1), 0)

    def mixture(self, scored: ScoredCandidates) -> tuple[float, Float64s]:
        return 0.0, self._logits(scored)

    def _logits(self, scored: ScoredCandidates) -> Float64s:
        """Scores over the temperature, shifted so that the user's best is 0."""
        logits = scored.scores.values.astype(np.float64) / self.settings.temperature
        top = np.full(len(scored), -np.inf)
        np.maximum.at(top, scored.scores.rows, logits)
        return np.asarray(logits - top[scored.scores.rows])


def _rank(given: Ragged) -> Int64s:
    return np.arange(len(given.values)) - given.offsets[given.rows]


def _log_mass(logits: Ragged, counted: Bools) -> Float64s:
    """log sum exp of each row's counted logits, [rows]; −inf for rows without any."""
    rows, values = logits.rows[counted], logits.values[counted]
    top = np.full(len(logits), -np.inf)
    np.maximum.at(top, rows, values)
    mass = np.bincount(rows, np.exp(values - top[rows]), minlength=len(logits))
    return np.asarray(np.log(np.maximum(mass, 1)) + top)  # a row with counted values counts its largest, exp(0)
