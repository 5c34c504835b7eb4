"""Slates from scored candidates. Importing the package registers every policy and every diversifier."""

from rayrec.slates import calibration, dpp, epsilon_greedy, mmr, plackett_luce, thompson  # noqa: F401
from rayrec.slates.diversity import DIVERSIFIERS, Diversifier
from rayrec.slates.policies import POLICIES, PolicySlates, SlatePolicy
from rayrec.slates.scored_candidates import CatalogueItems, ScoredCandidates

__all__ = [
    "DIVERSIFIERS",
    "POLICIES",
    "CatalogueItems",
    "Diversifier",
    "PolicySlates",
    "ScoredCandidates",
    "SlatePolicy",
]
