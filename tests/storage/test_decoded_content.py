"""Text is found in every format that a job writes, wherever the format hides it."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from rayrec.data.id_search import IdSearch, is_distinctive
from rayrec.data.schemas import INTERACTION
from rayrec.data.shuffle import ShuffleWriter
from rayrec.storage.decoded_content import UndecodedError, decoded

USER = "ünïq-0077"
OTHERS = [f"another-{n:04d}" for n in range(500)]


def found(data: bytes, user: str = USER) -> bool:
    search = IdSearch([user])
    return any(search.found_in(texts) for texts in decoded(data))


def parquet(table: pa.Table, **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def arrow(table: pa.Table, new: Callable[..., pa.RecordBatchWriter] = pa.ipc.new_file) -> bytes:
    sink = io.BytesIO()
    with new(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table)
    return sink.getvalue()


def npy(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()


def npz(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.savez_compressed(sink, x=array)
    return sink.getvalue()


def shuffle(users: list[str]) -> bytes:
    count = len(users)
    columns = {field.name: pa.nulls(count, field.type) for field in INTERACTION}
    columns["user_id"] = pa.array(users).dictionary_encode()
    columns |= {field.name: pa.array([0] * count, field.type) for field in INTERACTION if not field.nullable}
    sink = io.BytesIO()
    writer = ShuffleWriter(sink, 4)
    writer.write_round([pa.table(columns, schema=INTERACTION)])
    writer.finish(None, {})
    return sink.getvalue()


TABLE = pa.table({"user_id": [*OTHERS, USER], "n": range(501)})
CODED = pa.table({"user_id": pa.array([*OTHERS, USER]).dictionary_encode()})
FILES = {
    "text": f"a,{USER},b".encode(),
    "parquet": parquet(TABLE, compression="zstd", use_dictionary=False, write_statistics=False),
    "parquet, dictionary": parquet(TABLE, compression="zstd", write_statistics=False),
    "parquet, value that no row has": parquet(CODED.slice(0, 500), compression="zstd", write_statistics=False),
    "parquet, nested": parquet(pa.table({"x": [[{"y": USER}]]}), compression="gzip"),
    "parquet, metadata": parquet(pa.table({"x": [1]}).replace_schema_metadata({"note": USER})),
    "parquet, raw row with escapes": parquet(pa.table({"raw": [json.dumps({"user_id": USER})]}), compression="zstd"),
    "arrow": arrow(TABLE),
    "arrow, value that no row has": arrow(CODED.slice(0, 500)),
    "arrow stream": arrow(TABLE, pa.ipc.new_stream),
    "shuffle": shuffle([*OTHERS, USER]),
    "json with escapes": json.dumps({"a": [{"b": USER}]}).encode(),
    "json key": json.dumps({USER: 1}).encode(),
    "json in json": json.dumps({"raw": json.dumps({"u": USER})}).encode(),
    "json lines": b'{"u": 1}\n' + json.dumps({"u": USER}).encode(),
    "html": f"<p>{USER.replace('-', '&#45;')}</p>".encode(),
    "safetensors metadata": safetensors.numpy.save({"x": np.zeros(2)}, {"who": USER}),
    "safetensors bytes": safetensors.numpy.save({"x": np.frombuffer(USER.encode(), np.uint8)}),
    "npy": npy(np.array([USER])),
    "npz": npz(np.array([USER])),
    "utf-16": USER.encode("utf-16"),
}
COMPRESSED = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("name", FILES)
def test_an_id_is_found_in_every_format(name: str) -> None:
    assert found(FILES[name])
    assert not found(FILES[name], "nobody-0077")


@pytest.mark.parametrize("codec", ["gz", "bz2", "xz"])
@pytest.mark.parametrize("name", ["text", "parquet", "json with escapes"])
def test_an_id_is_found_below_compression(name: str, codec: str) -> None:
    pack = COMPRESSED[codec]
    assert found(pack(FILES[name]))
    assert found(pack(gzip.compress(FILES[name])))


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_an_id_is_found_in_arrows_compressed_streams(codec: str) -> None:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(FILES["text"])
    assert found(sink.getvalue().to_pybytes())


@pytest.mark.parametrize("name", ["parquet", "arrow", "html", "npz"])
def test_a_damaged_file_is_searched_as_it_is_and_reported(name: str) -> None:
    damaged = FILES[name][: len(FILES[name]) // 2] + USER.encode()
    search, arrays = IdSearch([USER]), []
    with suppress(UndecodedError):
        for texts in decoded(damaged):
            arrays.append(search.found_in(texts))
    assert any(arrays)


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"PAR1", b"ARROW1\0\0", b"\x1f\x8b", b"PK\x03\x04", b"BZh9", b"{"])
)
def test_any_bytes_are_searched_or_reported(data: bytes, magic: bytes) -> None:
    with suppress(UndecodedError):
        assert list(decoded(magic + data))


@pytest.mark.parametrize("text", ["xünïq-0077", "ünïq-00771", "ünïq-0077_"])
def test_an_id_within_a_longer_word_is_another_one(text: str) -> None:
    assert not found(text.encode())


@pytest.mark.parametrize(
    ("user", "distinctive"),
    [
        ("17", False),
        ("20110831", False),
        ("1234567890", True),
        ("daily", False),
        ("popularity", False),
        ("u-1", False),
        ("user-0001", True),
        ("a@b.de", True),
        ("5f0c7a1e-9b1d-4b8e-8b59-0a5f4f1d9d11", True),
    ],
)
def test_ids_that_occur_everywhere_are_not_searched_byte_by_byte(user: str, distinctive: bool) -> None:
    assert is_distinctive(user) is distinctive


def test_thousands_of_ids_are_searched_at_once() -> None:
    search = IdSearch(OTHERS * 5 + [f"more-{n:06d}" for n in range(5_000)])
    assert search.found_in(pa.array([b"x", b"more-004999!"], pa.large_binary()))
    assert not search.found_in(pa.array([b"x", b"more-005000!", None], pa.large_binary()))
