"""Retrieval: candidates and their scores. Importing the package registers all retrievers."""

from rayrec.retrieval import (
    ease,
    fism,
    ials,
    item_knn,
    item_text,
    next_item,
    popularity,
    user_embedding,
    user_knn,
)
from rayrec.retrieval.fit_data import FitData
from rayrec.retrieval.retriever import RETRIEVERS, Retriever
from rayrec.retrieval.user_histories import UserHistories

__all__ = [
    "RETRIEVERS",
    "FitData",
    "Retriever",
    "UserHistories",
    "ease",
    "fism",
    "ials",
    "item_knn",
    "item_text",
    "next_item",
    "popularity",
    "user_embedding",
    "user_knn",
]
