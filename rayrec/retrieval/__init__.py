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
from rayrec.retrieval.retriever import RETRIEVERS, FitData, Retriever, UserHistories

__all__ = [
    "RETRIEVERS",
    "FitData",
    "Retriever",
    "UserHistories",
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
