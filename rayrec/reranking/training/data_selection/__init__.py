"""Training-data selection for tuning. Importing the package registers every method."""

from rayrec.reranking.training.data_selection import influential_users, user_sampling
from rayrec.reranking.training.data_selection.selection_pool import (
    SELECTION_METHODS,
    DataSelection,
    SelectionPool,
    latest_users,
    select_users,
)

__all__ = [
    "SELECTION_METHODS",
    "DataSelection",
    "SelectionPool",
    "influential_users",
    "latest_users",
    "select_users",
    "user_sampling",
]
