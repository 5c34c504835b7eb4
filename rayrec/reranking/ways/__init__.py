"""Ways of scoring over text, with any local instruct checkpoint. Importing the package registers every way."""

from rayrec.reranking.ways import label, pairwise, yes_no
from rayrec.reranking.ways.base import WAYS, Ask, Way
from rayrec.reranking.ways.checkpoint import Checkpoint

__all__ = ["WAYS", "Ask", "Checkpoint", "Way", "label", "pairwise", "yes_no"]
