"""A vector per user that answers to a purpose; see rayrec.embeddings.model for how, jobs.embed for the nightly job.

For a notebook: `read_embeddings` for what is published, `Embedder` to ask for any other purpose,
`Index` for who is alike.
"""

from rayrec.embeddings.embedder import Embedder
from rayrec.embeddings.events import Events, Items
from rayrec.embeddings.influence import EventInfluence, disagreeing, leave_one_out, overbearing
from rayrec.embeddings.neighbours import Index, Nearest
from rayrec.embeddings.reader import read_embeddings, read_influences, read_neighbours
from rayrec.embeddings.schema import vectors_of

__all__ = [
    "Embedder",
    "EventInfluence",
    "Events",
    "Index",
    "Items",
    "Nearest",
    "disagreeing",
    "leave_one_out",
    "overbearing",
    "read_embeddings",
    "read_influences",
    "read_neighbours",
    "vectors_of",
]
