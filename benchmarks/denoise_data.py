"""Held-out data of the denoising benchmark: known histories, and what their users consumed next. Without Ray.

Two protocols. `last-event`: each user's last event is held out and predicted as of its own time. Everything else is
known, including what others did later. This leaks the future's popularity, but evaluates the most users of a small
dataset. `time`: everything before a cutoff is known; the new items consumed within a horizon after it are held out.

The split `validation` is one step earlier (the event before the last one; the horizon before the cutoff). Settings are
chosen on it; published figures use `test`.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from rayrec.config import Config, load
from rayrec.data import catalogue, synthetic_dataset
from rayrec.data.cutoff_histories import consumed_after, histories_at
from rayrec.data.histories import group_histories
from rayrec.data.input_files import item_files, list_window_files, make_splits
from rayrec.data.interaction_contract import InteractionContract
from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.data.shuffle import read_item_counts, read_shard_interactions
from rayrec.data.split_ingest import ingest_split
from rayrec.denoising.denoiser import histories_of
from rayrec.denoising.heuristic_rules import retracted
from rayrec.numerics.ragged import Ragged
from rayrec.pipeline.run_context import microseconds
from rayrec.storage import Storage

CONF = Path(__file__).resolve().parent.parent / "conf"
MIN_EVENTS = 8  # positive events a user must have, what is held out included
LOW_RATING = 5.0  # natural noise of movietweetings: this and below, of 10
RETRACTION_DAYS = 60.0  # natural noise of online-retail: purchases returned within

Bools = npt.NDArray[np.bool_]
Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Source:
    config: str
    protocol: str
    cutoff: date  # of the protocol `time`
    horizon_days: int
    end: date  # exclusive: everything before it is loaded


SOURCES = {
    "made": Source(
        "../jobs/demo.yaml",
        "time",
        synthetic_dataset.DATE,
        synthetic_dataset.FUTURE_DAYS,
        synthetic_dataset.DATE + timedelta(days=7),
    ),
    "movietweetings": Source("movietweetings.yaml", "last-event", date(2013, 8, 18), 7, date(2013, 12, 31)),
    "online-retail": Source("online_retail.yaml", "time", date(2011, 7, 27), 28, date(2011, 8, 24)),
}


@dataclass(frozen=True)
class HeldOut:
    """Users with enough events. Those with an empty row of `wanted` are only trained on."""

    config: Config
    protocol: str
    catalogue: pa.Table  # ITEM
    history: pa.Table  # HISTORY before each user's cutoff; without the synthetic dataset's own noise
    user_cutoffs: Int  # [users] microseconds UTC: the cutoff of each user
    wanted: Ragged  # int32 codes of new items, sorted, a row a user
    observed: pa.Table  # HISTORY in which natural noise is detected
    natural: Bools  # [events of `observed`] that the data themselves mark as noise
    horizon_days: int  # of the data set

    @property
    def event_weights(self) -> tuple[float, ...]:
        return tuple(self.config.data.events.values())

    @property
    def items(self) -> int:
        return len(self.catalogue)


def held_out(data: str, root: str, protocol: str | None = None, split: str = "test") -> HeldOut:
    """Read a data set (`made` is generated under `root` if it is not there) and hold out the test items."""
    source = SOURCES[data]
    protocol = protocol or source.protocol
    truth = None
    if data == "made":
        if not (Path(root) / "truth" / "noise.csv").is_file():
            synthetic_dataset.make_synthetic_dataset(root)
        truth = pa_csv.read_csv(Path(root) / "truth" / "noise.csv")
        root = str(Path(root) / "data")
    sets = [f"data.root={root}", "data.shards=1", "data.window_days=4000"]
    config = load(CONF / source.config, sets)
    items, everything = read_until(config, source.end)
    weights = tuple(config.data.events.values())
    noise = np.zeros(len(Ragged.from_arrow(everything["item"]).values), np.bool_)
    if truth is not None:
        noise = _among(everything, items, truth)
    clean = _filtered(everything, ~noise)
    cutoff = microseconds(source.cutoff) - (split == "validation") * source.horizon_days * MICROSECONDS_PER_DAY
    if protocol == "time":
        until = cutoff + source.horizon_days * MICROSECONDS_PER_DAY
        wanted = consumed_after(clean, cutoff, until, weights)
        history = histories_at(clean, cutoff)
        user_cutoffs = np.full(len(clean), cutoff)
        observed, label = histories_at(everything, cutoff), noise[Ragged.from_arrow(everything["ts"]).values < cutoff]
    else:
        place = _positives_from_the_end(clean, weights)
        at = 1 + (split == "validation")
        history, wanted, user_cutoffs = _without_last(clean, place, at)
        observed, label = history, np.zeros(len(Ragged.from_arrow(history["item"]).values), np.bool_)
    enough = _positives(history, weights) + (protocol == "last-event") >= MIN_EVENTS
    if data != "made":
        observed, label = _natural(data, history, weights)
    rows = np.repeat(enough, Ragged.from_arrow(observed["item"]).lengths)
    return HeldOut(
        config,
        protocol,
        items,
        history.filter(pa.array(enough)).combine_chunks(),
        user_cutoffs[enough],
        Ragged.from_lengths(wanted.values[np.repeat(enough, wanted.lengths)], wanted.lengths[enough]),
        observed.filter(pa.array(enough)).combine_chunks(),
        label[rows],
        source.horizon_days,
    )


def read_until(config: Config, end: date) -> tuple[pa.Table, pa.Table]:
    """ITEM, and HISTORY of everything before `end`, through the data contract, as the daily job reads them."""
    data = config.data
    inputs, files = Storage(data.root), list_window_files(data, end).files
    with tempfile.TemporaryDirectory() as name:
        outputs, paths = Storage(name), []
        items = (
            None if data.items.from_interactions else catalogue.catalogue_from_files(data, item_files(data)).catalogue
        )
        contract = InteractionContract(data, end, None if items is None else items["item_id"].combine_chunks())
        for split in make_splits(inputs, files, data.split_bytes):
            paths.append(f"split-{split.index:04d}")
            quarantine = f"quarantine-{split.index:04d}.parquet"
            ingest_split(inputs, outputs, split, contract, shuffle_path=paths[-1], quarantine=quarantine)
        if items is None:
            items = catalogue.catalogue_from_counts(read_item_counts(outputs, path) for path in paths)
        tables = list(read_shard_interactions(outputs, paths, 0))
        grouped = group_histories(tables, items["item_id"].combine_chunks(), data, [file.path for file in files])
    return items.combine_chunks(), grouped.histories.combine_chunks()


def _positives(table: pa.Table, weights: tuple[float, ...]) -> Int:
    """[users]"""
    item = Ragged.from_arrow(table["item"])
    positive = histories_of(table, weights).weight.values > 0
    return np.bincount(item.rows[positive], minlength=len(item))


def _positives_from_the_end(table: pa.Table, weights: tuple[float, ...]) -> Int:
    """[events] 1 for the newest positive event of its user, 2 for the one before, ...; 0 for other events."""
    item = Ragged.from_arrow(table["item"])
    positive = histories_of(table, weights).weight.values > 0
    through = np.concatenate([[0], np.cumsum(positive)])
    place: Int = np.where(positive, through[item.offsets[1:][item.rows]] - through[1:] + 1, 0)
    return place


def _without_last(table: pa.Table, place: Int, at: int) -> tuple[pa.Table, Ragged, Int]:
    """The histories before the `at`-th event from the end; that event's item, if it is new; and its time."""
    item, ts = Ragged.from_arrow(table["item"]), Ragged.from_arrow(table["ts"]).values
    target = np.full(len(item), -1)
    chosen = np.flatnonzero(place == at)
    target[item.rows[chosen]] = chosen
    before = np.arange(len(ts)) < target[item.rows]
    exists = target >= 0
    user_cutoffs = np.where(exists, ts[np.maximum(target, 0)], 0)
    code = np.where(exists, item.values[np.maximum(target, 0)], -1)
    repeated = np.bincount(item.rows[before & (item.values == code[item.rows])], minlength=len(item)) > 0
    new = exists & ~repeated
    return _filtered(table, before), Ragged.from_lengths(code[new].astype(np.int32), new.astype(np.int64)), user_cutoffs


def _natural(data: str, history: pa.Table, weights: tuple[float, ...]) -> tuple[pa.Table, Bools]:
    """Histories without the events that reveal noise, and which of their events are noise."""
    whole = histories_of(history, weights)
    positive = whole.weight.values > 0
    label = whole.value.values <= LOW_RATING if data == "movietweetings" else retracted(whole, RETRACTION_DAYS)
    return _filtered(history, positive), label[positive]


def _among(table: pa.Table, items: pa.Table, truth: pa.Table) -> Bools:
    """Which events [events] have their (user_id, item_id) in `truth`, where no pair occurs twice."""
    item = Ragged.from_arrow(table["item"])
    row = pc.index_in(truth["user_id"], table["user_id"].combine_chunks()).fill_null(-1).to_numpy()
    code = pc.index_in(truth["item_id"], items["item_id"].combine_chunks()).fill_null(-1).to_numpy()
    named: Bools = np.isin(item.rows * len(items) + item.values, row.astype(np.int64) * len(items) + code)
    return named


def _filtered(table: pa.Table, mask: Bools) -> pa.Table:
    """HISTORY rows with some of their events."""
    columns = []
    for field in table.schema:
        column = table[field.name].combine_chunks()
        if pa.types.is_list(field.type) and field.name != "older_items":
            column = Ragged.from_arrow(column).filter(mask).to_arrow(field.type.value_type)
        columns.append(column)
    return pa.table(columns, schema=table.schema)
