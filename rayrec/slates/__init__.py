"""Slates: arms, the blend, and what is made of scored candidates. Importing the package registers every policy."""

from rayrec.slates import exploring
from rayrec.slates.policies import POLICIES, Ordered, SlatePolicy

__all__ = ["POLICIES", "Ordered", "SlatePolicy", "exploring"]
