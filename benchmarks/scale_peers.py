"""One source against the same method of another library: fit, and the 100 best new items of every user, on two cores.

The same events in the same process (RecTools in a Python of its own, see peer_ease.py), at equal settings: implicit's
ALS, implicit's cosine item-kNN, RecTools' EASE. Reading the events is not counted, neither for ours nor for theirs.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds
import scipy.sparse as sp
from implicit.cpu.als import AlternatingLeastSquares
from implicit.nearest_neighbours import CosineRecommender
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from benchmarks.generated import Made
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.threads import thread_limit
from rayrec.numerics.user_scores import AllowedItems
from rayrec.retrieval.fit_data import FitData
from rayrec.retrieval.retriever import RETRIEVERS, Retriever
from rayrec.retrieval.user_histories import UserHistories

CANDIDATES, FACTORS, ITERATIONS, NEIGHBOURS, REGULARIZATION = 100, 64, 8, 200, 200.0
_USERS = 1000  # at once, in both


@dataclass(frozen=True)
class Seconds:
    fit: float
    top: float
    cpu: float  # of both

    @property
    def both(self) -> float:
        return self.fit + self.top

    def __str__(self) -> str:
        return f"{self.fit:.1f} + {self.top:.1f} s ({self.cpu:.1f} of CPU)"


@dataclass(frozen=True)
class Pair:
    method: str
    peer: str
    own: Seconds
    theirs: Seconds

    def __str__(self) -> str:
        factor = self.theirs.both / self.own.both
        return f"{self.method:9} fit + top {self.own}   {self.peer} {self.theirs}   {factor:.2f} x as fast"


def compare(made: Made, python: str | None) -> list[Pair]:
    """All pairs that can run; `python`: one with RecTools, None: without EASE."""
    matrix = _matrix(made)
    _compare(matrix[:_USERS, :_USERS].tocsr(), None)  # loads and compiles what both need
    return _compare(matrix, python)


def _compare(matrix: sp.csr_matrix, python: str | None) -> list[Pair]:
    pairs = [
        Pair("iALS", "implicit ALS", _own(matrix, "ials", factors=FACTORS, iterations=ITERATIONS), _als(matrix)),
        Pair("item-kNN", "implicit cosine", _own(matrix, "item_knn", neighbours=NEIGHBOURS), _cosine(matrix)),
    ]
    if python is not None:
        own = _own(matrix, "ease", regularization=REGULARIZATION)
        pairs.append(Pair("EASE", "RecTools EASE", own, _ease(matrix, python)))
    return pairs


def _matrix(made: Made) -> sp.csr_matrix:
    """float32 [users, items], 1 where the user had an event of any kind."""
    table = ds.dataset(made.root / "events").to_table(columns=["user_id", "item_id"]).drop_null()
    user, item = (table[name].combine_chunks().dictionary_decode().dictionary_encode() for name in table.column_names)
    cells = (pc.cast(part.indices, "int64").to_numpy() for part in (user, item))
    matrix = sp.csr_matrix((np.ones(len(table), np.float32), tuple(cells)))
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def _timed(fit: Callable[[], Any], top: Callable[[Any], Any]) -> Seconds:
    started, cpu = time.monotonic(), time.process_time()
    model = fit()
    fitted = time.monotonic()
    top(model)
    return Seconds(fitted - started, time.monotonic() - fitted, time.process_time() - cpu)


def _own(matrix: sp.csr_matrix, method: str, **given: Any) -> Seconds:
    settings = RETRIEVERS.settings(method, given)
    length = np.diff(matrix.indptr)
    user, ts = np.repeat(np.arange(len(length), dtype=np.int32), length), np.zeros(matrix.nnz, np.int64)
    data = FitData(matrix, user, matrix.indices, ts, matrix.data, 1)
    item = Ragged(matrix.indices, matrix.indptr.astype(np.int64))
    known = UserHistories(item, item.like(ts), item.like(matrix.data), matrix.shape[1])
    available = np.ones(matrix.shape[1], np.bool_)

    def top(retriever: Retriever) -> None:
        def of(start: int) -> None:
            histories = known[slice(start, start + _USERS)]
            retriever.user_scores(histories).top(AllowedItems(available, histories.item), CANDIDATES)

        # A thread a core, each with one thread of its own: as the job's tasks.
        with thread_limit(1), ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(of, range(0, len(known), _USERS)))

    return _timed(lambda: RETRIEVERS[method].fit(data, settings), top)


def _als(matrix: sp.csr_matrix) -> Seconds:
    model = AlternatingLeastSquares(factors=FACTORS, iterations=ITERATIONS, random_state=0)
    with threadpool_limits(1, "blas"):  # as implicit asks for
        return _implicit(model, matrix)


def _cosine(matrix: sp.csr_matrix) -> Seconds:
    return _implicit(CosineRecommender(K=NEIGHBOURS), matrix)


def _implicit(model: Any, matrix: sp.csr_matrix) -> Seconds:
    def fit() -> Any:
        model.fit(matrix, show_progress=False)
        return model

    def top(fitted: Any) -> None:
        for start in range(0, matrix.shape[0], _USERS):
            rows = np.arange(start, min(start + _USERS, matrix.shape[0]))
            fitted.recommend(rows, matrix[rows], N=CANDIDATES)

    return _timed(fit, top)


def _ease(matrix: sp.csr_matrix, python: str) -> Seconds:
    with tempfile.TemporaryDirectory() as name:
        given = Path(name) / "matrix.npz"
        sp.save_npz(given, matrix, compressed=False)
        script = Path(__file__).with_name("peer_ease.py")
        command = [python, str(script), str(given), str(REGULARIZATION), str(CANDIDATES)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Seconds(**json.loads(done.stdout.splitlines()[-1]))
