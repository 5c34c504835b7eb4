"""Text rerankers: a local instruct checkpoint scores items by their texts. Importing the package registers all
methods."""

from rayrec.reranking.text import listwise, pairwise, pointwise
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint
from rayrec.reranking.text.text_scorer import TEXT_SCORERS, RankingQuery, TextScorer

__all__ = ["TEXT_SCORERS", "InstructCheckpoint", "RankingQuery", "TextScorer", "listwise", "pairwise", "pointwise"]
