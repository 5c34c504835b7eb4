"""Blending: the final score of a candidate. Importing the package registers every method."""

from rayrec.blending import boosted_trees
from rayrec.blending.score_correction import BLENDING_METHODS

__all__ = ["BLENDING_METHODS", "boosted_trees"]
