"""Slates: arms, the blend, and what is made of scored candidates. Importing the package registers every policy and
every diversification."""

from rayrec.slates import calibration, dpp, mmr, stochastic_policies, thompson
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
    "calibration",
    "dpp",
    "mmr",
    "stochastic_policies",
    "thompson",
]
