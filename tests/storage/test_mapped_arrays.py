"""Mapped safetensors files: what safetensors itself writes and reads, shared between processes, never two copies."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from benchmarks.process_tree import memory_of
from rayrec.errors import DataError
from rayrec.storage import Storage, artifacts, mapped_arrays

ARRAYS = {
    "b": np.arange(7, dtype=np.int32),
    "a": np.random.default_rng(0).normal(size=(3, 4)),
    "flags": np.array([True, False, True]),
    "none": np.zeros((0, 5), np.float32),
    "strided": np.arange(20, dtype=np.float32).reshape(4, 5).T,
    "bytes": np.frombuffer(b"some text", np.uint8),
}


def test_files_are_safetensors_in_both_directions(tmp_path: Path) -> None:
    with open(tmp_path / "x", "wb") as file:
        digest = mapped_arrays.write(file, ARRAYS)
    assert digest == mapped_arrays.sha256_of(tmp_path / "x")
    for found in (safetensors.numpy.load_file(tmp_path / "x"), mapped_arrays.read(tmp_path / "x")):
        assert set(found) == set(ARRAYS)
        for name, array in ARRAYS.items():
            assert found[name].dtype == array.dtype
            assert np.array_equal(found[name], array)
    found = mapped_arrays.read(tmp_path / "x")
    assert all(array.flags.aligned and not array.flags.writeable for array in found.values() if array.size)
    safetensors.numpy.save_file({"a": ARRAYS["a"]}, tmp_path / "y")
    assert np.array_equal(mapped_arrays.read(tmp_path / "y")["a"], ARRAYS["a"])


def test_an_artifact_of_other_bytes_is_refused(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    artifacts.save(storage, "kind", "print", ARRAYS, {"n": 1})
    loaded = artifacts.load_mapped(storage, "kind", "print")
    assert loaded.meta == {"n": 1}
    assert np.array_equal(loaded.arrays["a"], ARRAYS["a"])
    (path,) = tmp_path.rglob("*.safetensors")
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.write_bytes(changed)
    with pytest.raises(DataError, match="not the ones that were saved"):
        artifacts.load_mapped(storage, "kind", "print")


@pytest.mark.slow  # it starts processes
def test_memory_of_processes_grows_by_their_working_set_not_by_the_model(tmp_path: Path) -> None:
    model_bytes = 256 << 20
    storage = Storage(str(tmp_path))
    artifacts.save(storage, "kind", "print", {"weights": np.ones(model_bytes // 4, np.float32)}, {})
    context = multiprocessing.get_context("spawn")
    measured = {}
    for count in (1, 2, 4):
        ready, done = context.Semaphore(0), context.Event()
        processes = [context.Process(target=_read_all, args=(str(tmp_path), ready, done)) for _ in range(count)]
        for process in processes:
            process.start()
        for _ in processes:
            assert ready.acquire(timeout=300)
        measured[count] = sum(memory_of(process.pid) for process in processes if process.pid)
        done.set()
        for process in processes:
            process.join(300)
    alone = measured[1] - model_bytes  # a process without the model
    assert alone > 0
    for count in (2, 4):
        assert measured[count] < model_bytes + count * alone + model_bytes // 4


def _read_all(root: str, ready: object, done: object) -> None:
    """Touch every page of the model, hold it, and wait."""
    loaded = artifacts.load_mapped(Storage(root), "kind", "print")
    assert loaded.arrays["weights"].sum() > 0
    ready.release()  # type: ignore[attr-defined]
    done.wait(300)  # type: ignore[attr-defined]
