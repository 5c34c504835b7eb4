"""A small valid dataset, and a function that runs its files through the real ingest functions.

Each broken input is this dataset with one fault.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from rayrec.config import Config, load
from rayrec.data import catalogue, input_files
from rayrec.data.histories import GroupedHistories, group_histories
from rayrec.data.interaction_contract import InteractionContract
from rayrec.data.quarantine import check_share, counts_by_reason
from rayrec.data.schemas import QUARANTINE
from rayrec.data.shuffle import read_item_counts, read_shard_interactions
from rayrec.data.split_ingest import RowCounts, ingest_split
from rayrec.storage import Storage
from rayrec.storage.tables import read_parquet

DAY = date(2011, 8, 31)

HEADER = "user_id,item_id,ts,event,value,dwell_ms\n"
ROWS = (
    "ann,tea,2011-08-30 08:00:00,purchase,1,1500\n"
    "ann,cup,2011-08-30 08:05:00,view,,20\n"
    "bob,tea,2011-08-30 09:00:00,purchase,2,\n"
)
EVENTS = HEADER + ROWS
ITEMS = "item_id,title,price\ntea,Green tea,3.50\ncup,A cup,7\npot,A tea pot,20\n"

Files = Mapping[str, bytes | str]


def good_config() -> dict[str, Any]:
    """A new copy on each call."""
    return {
        "name": "small_shop",
        "data": {
            "interactions": {"path": "events", "event": {"column": "event"}, "value": "value", "dwell_ms": "dwell_ms"},
            "items": {"path": "items.csv", "attributes": {"price": "price"}},
            "events": {"purchase": 1.0, "view": 0.5, "return": -1.0},
            "window_days": 30,
            "max_quarantine_share": 0.8,
            "shards": 2,
        },
        "arms": {"variants": {"control": {}}},
    }


def good_files() -> dict[str, bytes | str]:
    """Path under data.root -> content; a new dict on each call."""
    return {"events/2011-08-30.csv": EVENTS, "items.csv": ITEMS}


@dataclass(frozen=True)
class Outcome:
    """Where every row and every user ended."""

    config: Config
    rows: RowCounts
    quarantine: pa.Table  # QUARANTINE, of interactions
    item_quarantine: pa.Table  # QUARANTINE, of items
    catalogue: pa.Table
    shards: tuple[GroupedHistories, ...]
    reasons: dict[str, int] = field(default_factory=dict)  # rows, items and users by reason

    def histories(self) -> dict[str, dict[str, list[Any]]]:
        return {row.pop("user_id"): row for shard in self.shards for row in shard.histories.to_pylist()}


def write(folder: Path, content: Mapping[str, Any], files: Files) -> Path:
    """Write the files to folder/data and the config beside them; returns the config's path."""
    for path, data in files.items():
        target = folder / "data" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data.encode() if isinstance(data, str) else data)
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(dict(content), sort_keys=False), encoding="utf8")
    return config


def run(folder: Path, content: Mapping[str, Any], files: Files, day: date = DAY) -> Outcome:
    """Run config -> input files -> reading -> validation -> catalogue -> shuffle -> histories."""
    config = load(write(folder, content, files), [f"data.root={folder / 'data'}"])
    data, outputs = config.data, Storage(str(folder / "out"))
    inputs = Storage(data.root)
    listed = input_files.list_window_files(data, day).files
    item_quarantine, items = QUARANTINE.empty_table(), None
    if not data.items.from_interactions:
        read = catalogue.catalogue_from_files(data, input_files.item_files(data))
        items, item_quarantine = read.catalogue, read.quarantine
        assert read.rows == items.num_rows + item_quarantine.num_rows
    contract = InteractionContract(data, day, None if items is None else items["item_id"].combine_chunks())
    splits = input_files.make_splits(inputs, listed, data.split_bytes)
    rows, broken, shuffle_path = RowCounts(), [QUARANTINE.empty_table()], []
    for split in splits:
        shuffle_path.append(f"shuffle/{split.index}")
        statistics = ingest_split(
            inputs,
            outputs,
            split,
            contract,
            shuffle_path=shuffle_path[-1],
            quarantine=f"quarantine/{split.index}.parquet",
        )
        rows.add(RowCounts.from_dict(statistics))
        if statistics["quarantine"]:
            broken.append(read_parquet(outputs, statistics["quarantine"]))
    assert rows.rows == rows.accepted + rows.outside_window + sum(rows.quarantined.values())
    check_share(rows.rows - rows.outside_window, rows.quarantined, data.max_quarantine_share, "the window")
    if items is None:
        items = catalogue.catalogue_from_counts([read_item_counts(outputs, path) for path in shuffle_path])
    ids, paths = items["item_id"].combine_chunks(), [file.path for file in listed]
    shards = tuple(
        group_histories(read_shard_interactions(outputs, shuffle_path, k), ids, data, paths)
        for k in range(data.shard_count)
    )
    quarantine = pa.concat_tables([*broken, *(shard.duplicates for shard in shards)])
    outcome = Outcome(config, rows, quarantine, item_quarantine, items, shards)
    outcome.reasons.update(_reasons(outcome))
    return outcome


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def _reasons(outcome: Outcome) -> dict[str, int]:
    found = counts_by_reason(pa.concat_tables([outcome.quarantine, outcome.item_quarantine]))
    for shard in outcome.shards:
        assert shard.users == shard.histories.num_rows + sum((shard.quarantined | shard.ineligible).values())
        for reason, users in (shard.quarantined | shard.ineligible).items():
            found[reason] = found.get(reason, 0) + users
    return found
