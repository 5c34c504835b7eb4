"""DENOISED_HISTORY holds a user once a variant: under a split, once in the variant of their own arm, and in no other."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def first_row_per_user(denoised: pa.Table) -> pa.Table:
    """The first row of each user, whatever its variant: what was known of everybody, not what a variant made of it."""
    users = denoised["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    first = np.unique(users, return_index=True)[1]  # codes are given in the order of the rows, so these ascend
    return denoised.take(pa.array(first)).combine_chunks()
