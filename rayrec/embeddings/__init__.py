"""A vector per user that answers to a purpose; see rayrec.embeddings.user_model for how, jobs.embed for the nightly job.

For a notebook: `read_embeddings` for what is published, `Embedder` to ask for any other purpose,
`Index` for who is alike.
"""

from rayrec.embeddings.embedder import Embedder
from rayrec.embeddings.embedding_reader import read_embeddings, read_influences, read_neighbours
from rayrec.embeddings.embedding_schema import vectors_of
from rayrec.embeddings.event_influence import InteractionInfluence, least_aligned, leave_one_out, most_influential
from rayrec.embeddings.neighbours import Index, SearchResult
from rayrec.embeddings.source_events import Events, Items

__all__ = [
    "Embedder",
    "Events",
    "Index",
    "InteractionInfluence",
    "Items",
    "SearchResult",
    "least_aligned",
    "leave_one_out",
    "most_influential",
    "read_embeddings",
    "read_influences",
    "read_neighbours",
    "vectors_of",
]
