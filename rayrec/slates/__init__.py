"""Slates: arms, the blend, and what is made of scored candidates. Importing the package registers every policy and
every diversification."""

from rayrec.slates import calibrated, dpp, exploring, mmr, thompson
from rayrec.slates.diversity import METHODS, Diversity
from rayrec.slates.policies import POLICIES, Ordered, SlatePolicy
from rayrec.slates.scored import Items, Scored

__all__ = [
    "METHODS",
    "POLICIES",
    "Diversity",
    "Items",
    "Ordered",
    "Scored",
    "SlatePolicy",
    "calibrated",
    "dpp",
    "exploring",
    "mmr",
    "thompson",
]
