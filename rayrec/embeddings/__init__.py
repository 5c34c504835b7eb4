"""Instruction-aware user embeddings (after InstructUE, arXiv 2510.11016): one vector per user and instruction.

`user_model` describes the model; `jobs.embed` trains it, embeds all users and publishes the vectors. In a notebook:
`read_embeddings` reads published vectors, `Embedder` embeds users under any other instruction, `Index` searches for
nearest neighbours.
"""

from rayrec.embeddings.embedder import Embedder
from rayrec.embeddings.embedding_reader import read_embeddings, read_influences, read_neighbours
from rayrec.embeddings.embedding_tables import vectors_of
from rayrec.embeddings.interaction_influence import InteractionInfluence, leave_one_out, most_influential
from rayrec.embeddings.neighbour_search import Index, SearchResult
from rayrec.embeddings.user_events import Events, Items

__all__ = [
    "Embedder",
    "Events",
    "Index",
    "InteractionInfluence",
    "Items",
    "SearchResult",
    "leave_one_out",
    "most_influential",
    "read_embeddings",
    "read_influences",
    "read_neighbours",
    "vectors_of",
]
