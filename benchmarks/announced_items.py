"""online-retail with announced launches: a catalogue file in which each item is available from its first sale.

The data have no catalogue. Here every item of all files is in one, with the text and the price of its first sale, as a
shop would know them before the launch; `available_from` is the day of that sale.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv

_COLUMNS = {"StockCode": pa.string(), "Description": pa.string(), "InvoiceDate": pa.string(), "UnitPrice": pa.string()}
SETS = (
    "data.items.from_interactions=false",
    "data.items.path=items.csv",
    "data.items.item_id=item_id",
    "data.items.title=title",
    "data.items.available_from=available_from",
    "data.items.attributes={price: price}",
)


def with_announced_items(root: str, folder: Path) -> Path:
    """Create `folder`: the files of `root`, and items.csv."""
    if (folder / "items.csv").exists():
        return folder
    folder.mkdir(parents=True)
    (folder / "by-day").symlink_to((Path(root) / "by-day").resolve())
    found: dict[str, tuple[str, str, str]] = {}  # item -> title, price, first day
    for file in sorted((folder / "by-day").glob("*.csv")):
        options = pa_csv.ConvertOptions(column_types=_COLUMNS, include_columns=list(_COLUMNS), strings_can_be_null=True)
        for item, title, moment, price in zip(
            *(column.to_pylist() for column in pa_csv.read_csv(file, convert_options=options).columns), strict=True
        ):
            known = found.get(item)
            if item and title and (known is None or not known[0]):
                found[item] = (title, price, known[2] if known else moment[:10])
            elif item and known is None:
                found[item] = ("", price, moment[:10])
    rows = [(item, *values) for item, values in sorted(found.items())]
    names = ("item_id", "title", "price", "available_from")
    table = pa.table(dict(zip(names, (list(column) for column in zip(*rows, strict=True)), strict=True)))
    pa_csv.write_csv(table, folder / "items.csv")
    return folder
