"""The catalogue: an ITEM table sorted by item_id, read from its own files or counted from interactions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config import ColumnLike, Data, ItemSource
from rayrec.data import column_parsing
from rayrec.data.file_reader import read_fragment
from rayrec.data.input_files import FileFragment, InputFile
from rayrec.data.raw_rows import MissingColumns, RawBatch
from rayrec.data.row_validation import RowValidation, as_column
from rayrec.data.schemas import ITEM, MICROSECONDS_PER_DAY, QUARANTINE, TS
from rayrec.data.text_columns import Text, clean_item_text
from rayrec.errors import DataError
from rayrec.storage import Storage

ATTRIBUTE = "attributes."  # prefix of the names of attributes
ITEM_COUNTS = pa.schema(
    [
        pa.field("item_id", pa.string()),
        pa.field("field", pa.string()),  # "" counts the item itself
        pa.field("value", pa.string()),
        pa.field("count", pa.int64()),
    ]
)
"""Count of each (item, field, value): one row each."""

_TRUE, _FALSE = ("true", "1", "1.0", "yes", "y", "t"), ("false", "0", "0.0", "no", "n", "f")


@dataclass(frozen=True)
class CatalogueResult:
    """The result of reading item rows: rows = catalogue.num_rows + quarantine.num_rows."""

    catalogue: pa.Table  # ITEM, sorted by item_id
    quarantine: pa.Table  # QUARANTINE
    rows: int


def catalogue_from_files(data: Data, files: Sequence[InputFile]) -> CatalogueResult:
    """Read the catalogue. Of rows with the same item_id the first by (file, row) counts.

    Raises DataError if no item is left, or a file cannot be read.
    """
    storage, source = Storage(data.root), data.items
    fields = item_fields(source)
    columns = tuple(dict.fromkeys(as_column(field).column for field in (source.item_id, *fields.values())))
    id_column = as_column(source.item_id).column
    items, quarantine = [ITEM.empty_table()], [QUARANTINE.empty_table()]
    seen: set[str] = set()
    missing = MissingColumns()
    for file in files:
        where = storage.url(file.path)
        for batch in missing.noted(read_fragment(storage, FileFragment(file), source, columns, [id_column])):
            table, rejected = _check(batch, file.path, where, source, fields, seen)
            items.append(table)
            quarantine.append(rejected)
    missing.check()
    catalogue, rejected = pa.concat_tables(items).sort_by("item_id").combine_chunks(), pa.concat_tables(quarantine)
    if not catalogue.num_rows:
        raise _empty(storage.url(source.path), rejected.num_rows)
    return CatalogueResult(catalogue, rejected, catalogue.num_rows + rejected.num_rows)


def catalogue_from_counts(parts: Iterable[pa.Table]) -> pa.Table:
    """Build ITEM from the ITEM_COUNTS of all splits: the most frequent value of each field; of ties the smallest.

    Raises DataError if no item was counted.
    """
    counts = merge_item_counts(parts).sort_by(
        [("item_id", "ascending"), ("field", "ascending"), ("count", "descending"), ("value", "ascending")]
    )
    ids = counts["item_id"].to_numpy()
    names = counts["field"].to_numpy()
    first = np.ones(len(ids), bool)
    first[1:] = (ids[1:] != ids[:-1]) | (names[1:] != names[:-1])
    best = counts.filter(pa.array(first))
    item_ids = best.filter(pc.equal(best["field"], ""))["item_id"].combine_chunks()
    if not len(item_ids):
        raise _empty("the interactions", 0)
    texts = {name: _aligned(best, name, item_ids) for name in sorted(set(best["field"].to_pylist()) - {""})}
    available = _available(texts["available"])[0] if "available" in texts else np.ones(len(item_ids), bool)
    return _items(item_ids, texts, available, _launches(texts)[0])


def recommendable(catalogue: pa.Table, cutoff: int, launch_days: float) -> npt.NDArray[np.bool_]:
    """Bool [items]: available, and launched less than `launch_days` after the cutoff (microseconds UTC) or before."""
    until = pa.scalar(cutoff + int(launch_days * MICROSECONDS_PER_DAY), TS)
    launched = pc.fill_null(pc.less(catalogue["available_from"], until), True)
    found: npt.NDArray[np.bool_] = pc.and_(catalogue["available"], launched).to_numpy()
    return found


def _check(
    batch: RawBatch, path: str, where: str, source: ItemSource, fields: Mapping[str, ColumnLike], seen: set[str]
) -> tuple[pa.Table, pa.Table]:
    """ITEM and QUARANTINE of one batch; adds its item_ids to `seen`."""
    rows = RowValidation(batch, path, where)
    item, id_column = rows.ids(source.item_id), as_column(source.item_id).column
    rows.flag(~item.present, "no_item", id_column)
    rows.reject_invalid_ids(item, id_column)
    texts = {name: clean_item_text(rows.text(field), name) for name, field in fields.items()}
    available = np.ones(len(item), bool)
    if source.available is not None:
        available, wrong = _available(texts["available"])
        rows.flag(wrong, "bad_available", as_column(source.available).column)
    launches, wrong = _launches(texts)
    if source.available_from is not None:
        rows.flag(wrong, "bad_available_from", as_column(source.available_from).column)
    rows.flag(_repeated(item.only(rows.good), seen), "duplicate_item", id_column)
    good = pa.array(rows.good)
    seen.update(item.to_arrow().filter(good).to_pylist())
    table = _items(item.to_arrow().cast(pa.string()), texts, available, launches).filter(good)
    return table, rows.quarantine(item.only(np.zeros(len(item), bool)))


def _items(
    item_ids: pa.Array, texts: Mapping[str, Text], available: npt.NDArray[np.bool_], launches: pa.Array | None
) -> pa.Table:
    def column(name: str) -> pa.Array:
        return texts[name].to_arrow().cast(pa.string()) if name in texts else pa.nulls(len(item_ids), pa.string())

    # An item without a title is displayed by its id.
    title = pc.coalesce(column("title"), item_ids).fill_null("")
    columns = [item_ids, title, column("category"), column("description"), available, _attributes(texts, len(item_ids))]
    return pa.table([*columns, pa.nulls(len(item_ids), TS) if launches is None else launches], schema=ITEM)


def _attributes(texts: Mapping[str, Text], rows: int) -> pa.Array:
    """map<string, string> [rows], without keys that have no value."""
    named = {name.removeprefix(ATTRIBUTE): text for name, text in texts.items() if name.startswith(ATTRIBUTE)}
    lists = [text.to_arrow().to_pylist() for text in named.values()]
    pairs = [
        [(key, value) for key, value in zip(named, values, strict=True) if value is not None]
        for values in zip(*lists, strict=True)
    ]
    return pa.array(pairs if named else [[]] * rows, ITEM.field("attributes").type)


def _available(text: Text) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Bool [n] each: whether the item is available (missing: yes), and whether the value is neither yes nor no."""
    lower = pc.utf8_lower(text.values)
    yes = pc.is_in(lower, pa.array(_TRUE)).to_numpy(zero_copy_only=False)
    no = pc.is_in(lower, pa.array(_FALSE)).to_numpy(zero_copy_only=False)
    return text.look_up(~no, True), text.look_up(~(yes | no), False)


def _launches(texts: Mapping[str, Text]) -> tuple[pa.Array | None, npt.NDArray[np.bool_]]:
    """TS [n] (None: no such field), null where an item is always available, and unreadable values, bool [n]."""
    text = texts.get("available_from")
    if text is None:
        return None, np.zeros(0, np.bool_)
    micros, valid = column_parsing.microseconds(text.values.cast(pa.string()))
    read = text.look_up(valid, False)
    return pa.array(text.look_up(micros, 0), TS, mask=~read), text.present & ~read


def _repeated(item: Text, seen: set[str]) -> npt.NDArray[np.bool_]:
    """Bool [n]: the item occurs in an earlier batch or an earlier row."""
    known = np.array([value in seen for value in item.values.to_pylist()], bool)
    repeated = item.look_up(known, False)
    present = np.flatnonzero(item.present)
    first = np.unique(item.codes[present], return_index=True)[1]
    again = np.ones(len(present), bool)
    again[first] = False
    repeated[present[again]] = True
    return repeated


def _aligned(best: pa.Table, field: str, item_ids: pa.Array) -> Text:
    rows = best.filter(pc.equal(best["field"], field))
    at = pc.index_in(item_ids, value_set=rows["item_id"].combine_chunks())
    encoded = pc.dictionary_encode(rows["value"].combine_chunks().take(at))
    return Text(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32), encoded.dictionary)


def _empty(where: str, rejected: int) -> DataError:
    why = f": all of its {rejected:,} rows broke the contract" if rejected else ""
    return DataError(
        f"the catalogue is empty{why}", where=where, hint="check data.items, and the rows under quarantine/"
    )


def item_fields(source: ItemSource) -> dict[str, ColumnLike]:
    """The item fields that the config maps, without the id; attributes as ATTRIBUTE + name."""
    named = {
        name: getattr(source, name) for name in ("title", "category", "description", "available", "available_from")
    }
    attributes = {f"{ATTRIBUTE}{name}": field for name, field in source.attributes.items()}
    return {name: field for name, field in (named | attributes).items() if field is not None}


def count_items(items: Text, fields: Mapping[str, Text]) -> pa.Table:
    """ITEM_COUNTS of one batch; rows without an item or a value are skipped."""
    tables = [_count_field(items, "", Text(np.zeros(len(items), np.int32), pa.array([""])))]
    tables += [_count_field(items, name, text) for name, text in fields.items()]
    return pa.concat_tables(tables)


def _count_field(items: Text, field: str, text: Text) -> pa.Table:
    rows = items.present & text.present
    width = max(len(text.values), 1)
    pairs, counts = np.unique(items.codes[rows].astype(np.int64) * width + text.codes[rows], return_counts=True)
    columns = [
        items.values.take(pa.array(pairs // width)),
        pa.repeat(pa.scalar(field), len(pairs)),
        text.values.take(pa.array(pairs % width)),
        counts,
    ]
    return pa.table(columns, schema=ITEM_COUNTS)


def merge_item_counts(tables: Iterable[pa.Table]) -> pa.Table:
    """Sum counts, sorted by (item_id, field, value); independent of the order of the parts."""
    together = pa.concat_tables([ITEM_COUNTS.empty_table(), *tables])
    summed = together.group_by(["item_id", "field", "value"]).aggregate([("count", "sum")])
    return pa.table(
        [summed["item_id"], summed["field"], summed["value"], summed["count_sum"]], schema=ITEM_COUNTS
    ).sort_by([("item_id", "ascending"), ("field", "ascending"), ("value", "ascending")])
