"""Retrieval: candidates and their scores. Importing the package registers every retriever."""

from rayrec.retrieval import (
    ease,
    fism,
    ials,
    item_knn,
    next_item,
    popularity,
    recent_popularity,
    user_embedding,
    user_knn,
)
from rayrec.retrieval.base import RETRIEVERS, FitData, Profiles, Retriever

__all__ = [
    "RETRIEVERS",
    "FitData",
    "Profiles",
    "Retriever",
    "ease",
    "fism",
    "ials",
    "item_knn",
    "next_item",
    "popularity",
    "recent_popularity",
    "user_embedding",
    "user_knn",
]
