"""RecTools' SASRec, fitted on the benchmark's histories by another Python (see peer_sasrec.py)."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.denoise_rank import RetainedEvents
from benchmarks.instruct_requests import Int, Scores

EPOCHS = 30  # by the validation split: see benchmarks/notes/requests.md


def sasrec(python: str, retained: RetainedEvents, users: Int, seed: int) -> Scores:
    """Scores of all items for `users`, rows of `retained`, and for no others."""
    with tempfile.TemporaryDirectory() as name:
        given, found = Path(name) / "events.npz", Path(name) / "scores.npy"
        item = retained.item
        np.savez(given, user=item.rows, item=item.values.astype(np.int64), ts=retained.ts.values, evaluated=users)
        script = Path(__file__).with_name("peer_sasrec.py")
        arguments = [str(part) for part in (given, found, retained.items, EPOCHS, seed)]
        subprocess.run([python, str(script), *arguments], check=True)
        scores = np.load(found)
    return lambda rows: scores[np.searchsorted(users, rows)]
