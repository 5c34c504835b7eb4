"""What a run keeps of texts read again by their titles alone: a file a shard and reader; none without such a reader.

runs/dt=D/<run id>/reread/<method>-shard=0007.arrow    REREAD
"""

from __future__ import annotations

import pyarrow as pa

from rayrec.hashing import seed_of
from rayrec.pipeline.day import Day
from rayrec.publishing import layout
from rayrec.reranking.rereading import REREAD, read_again
from rayrec.reranking.text_actor import TextReranker

_USERS = 100  # of a run and reader, two items each


def keep_reread(day: Day, run_id: str, shard: int, method: str, reader: TextReranker, scored: pa.Table) -> None:
    """Read some of one shard's users again; `scored`: what `reader` made of them."""
    shards = day.config.data.shards
    users = _USERS // shards + (shard < _USERS % shards)
    found = read_again(reader, scored, users, seed_of("read again", day.dt)) if users else REREAD.empty_table()
    with (
        day.storage.writer(f"{_folder(day, run_id)}/{method}-shard={shard:04d}.arrow") as file,
        pa.ipc.new_file(file, REREAD) as writer,
    ):
        writer.write_table(found)


def read_reread(day: Day, run_id: str) -> dict[str, pa.Table]:
    """REREAD of the whole run, by method."""
    found: dict[str, list[pa.Table]] = {}
    for info in day.storage.list(_folder(day, run_id)):
        with pa.ipc.open_file(day.storage.read(info.path)) as file:
            method = info.path.rpartition("/")[2].partition("-shard=")[0]
            found.setdefault(method, []).append(file.read_all())
    return {method: pa.concat_tables(tables) for method, tables in sorted(found.items())}


def _folder(day: Day, run_id: str) -> str:
    return f"{layout.run_folder(day.date, run_id)}/reread"
