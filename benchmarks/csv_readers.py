"""Compares the CSV reader with DuckDB's (`store_rejects`) and Arrow's, on random files with and without broken rows.

python -m benchmarks.csv_readers --files 3000 --check

Each file is written from known records (RFC 4180: cells with delimiters, quotes, line breaks), some of them broken in
one way. A reader should give every good record with its values, and every broken one as rejected, by its number. Rows
that are in neither are lost without a word. Bar: the job's reader does all of this in every file. Speed: million rows
per CPU second on one thread, medians of alternating repetitions.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.csv as pa_csv
from rich.console import Console
from rich.table import Table

from rayrec.config import FileSource
from rayrec.data.file_reader import read_fragment
from rayrec.data.input_files import FileFragment, InputFile
from rayrec.errors import DataError
from rayrec.storage import Storage

COLUMNS = ("u", "i", "x")
BROKEN = ("nothing", "too few fields", "too many fields", "text after a quote", "a quote that never closes")
_CHARS = 'ab ,"\n\u00e9'
_REPETITIONS, _ROWS = 5, 300_000


@dataclass(frozen=True)
class Result:
    """Rows in order, and the numbers (from 1) of the rejected ones. `error`: the file was refused."""

    rows: list[tuple[str, ...]]
    rejected: list[int]
    error: str = ""


Reader = Callable[[Path], Result]


def ours(path: Path) -> Result:
    rows: list[tuple[str, ...]] = []
    rejected: list[int] = []
    fragment = FileFragment(InputFile(0, path.name, path.stat().st_size, "v", "csv"))
    source = FileSource.model_validate({"path": path.name})
    try:
        for batch in read_fragment(Storage(str(path.parent)), fragment, source, COLUMNS, COLUMNS):
            rows += zip(*(batch.table[name].to_pylist() for name in COLUMNS), strict=True)
            rejected += [row.row for row in batch.malformed]
    except DataError as error:
        return Result([], [], error.what)
    return Result(rows, rejected)


def arrow(path: Path) -> Result:
    rejected: list[int] = []

    def skip(row: pa_csv.InvalidRow) -> str:
        rejected.append(row.number - 1)  # the header is number 1
        return "skip"

    try:
        table = pa_csv.read_csv(
            path,
            pa_csv.ReadOptions(use_threads=False),
            pa_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
            pa_csv.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.string()), strings_can_be_null=False),
        )
    except pa.ArrowInvalid as error:
        return Result([], [], str(error))
    return Result(list(zip(*(table[name].to_pylist() for name in COLUMNS), strict=True)), rejected)


_DUCKDB = """
SELECT * FROM read_csv(?, header = true, auto_detect = false, delim = ',', quote = '"', escape = '"', new_line = '\\n',
columns = {'u': 'VARCHAR', 'i': 'VARCHAR', 'x': 'VARCHAR'}, force_not_null = ['u', 'i', 'x'], store_rejects = true,
parallel = false)
"""


def duck(path: Path) -> Result:
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1")
        try:
            rows = connection.execute(_DUCKDB, [str(path)]).fetchall()
            lines = connection.execute("SELECT DISTINCT line FROM reject_errors ORDER BY line").fetchall()
        except duckdb.Error as error:
            return Result([], [], str(error))
        return Result(rows, [line - 1 for (line,) in lines])


READERS: dict[str, Reader] = {"rayrec": ours, "DuckDB": duck, "Arrow": arrow}


def some_file(chance: random.Random, broken: str) -> tuple[str, Result]:
    """The text, and what is in it."""
    lines, rows, rejected = ["u,i,x"], list[tuple[str, ...]](), list[int]()
    at = chance.randrange(8) if broken != "nothing" else -1
    for number in range(8):
        cells = ["".join(chance.choices(_CHARS, k=chance.randrange(5))) for _ in COLUMNS]
        if number == at:
            lines.append(_broken_line(broken))
            rejected.append(number + 1)
            continue
        if broken == "a quote that never closes":  # a quote after it would close it
            cells = [cell.replace('"', "").replace("\n", "").replace(",", "") for cell in cells]
        if not any(cells):
            cells[0] = "a"  # a blank line is no record
        lines.append(",".join(_written(cell, chance) for cell in cells))
        rows.append(tuple(cells))
    return "\n".join(lines) + "\n", Result(rows, rejected)


def _broken_line(how: str) -> str:
    return {
        "too few fields": "1,2",
        "too many fields": "1,2,3,4",
        "text after a quote": '1,"2"b,3',
        "a quote that never closes": '1,"2,3',
    }[how]


def _written(cell: str, chance: random.Random) -> str:
    plain = not set(cell) & {",", "\n", '"'}
    return cell if plain and chance.random() < 0.5 else '"' + cell.replace('"', '""') + '"'


def judge(files: int, seed: int) -> dict[tuple[str, str], Counter[str]]:
    """(reader, how a row is broken) -> number of files by outcome."""
    found: dict[tuple[str, str], Counter[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.csv"
        for number in range(files):
            chance, broken = random.Random(f"{seed}/{number}"), BROKEN[number % len(BROKEN)]
            text, expected = some_file(chance, broken)
            path.write_text(text, encoding="utf8", newline="")
            for name, reader in READERS.items():
                found.setdefault((name, broken), Counter())[_outcome(reader(path), expected)] += 1
    return found


def _outcome(result: Result, expected: Result) -> str:
    if result.error:
        return "file refused"
    if result.rows == expected.rows and result.rejected == expected.rejected:
        return "right"
    if result.rows == expected.rows:
        return "wrong row number" if len(result.rejected) == len(expected.rejected) else "broken row not told"
    lost = len(expected.rows) + len(expected.rejected) - len(result.rows) - len(result.rejected)
    return "rows lost without a word" if lost > 0 else "wrong values or rows"


def speeds(seed: int) -> dict[tuple[str, str], float]:
    """(reader, file) -> million rows per CPU second."""
    chance = random.Random(seed)
    rows = [f"user{chance.randrange(100_000)},item{chance.randrange(5000)}" for _ in range(_ROWS)]
    texts = {
        "plain": "".join(f"{row},2026-01-31T08:00:00Z\n" for row in rows),
        "quoted": "".join(f'{row},"a ""tea"" pot, of two\nlines"\n' for row in rows),
    }
    taken: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, text in texts.items():
            path = Path(folder) / f"{kind}.csv"
            path.write_text("u,i,x\n" + text, encoding="utf8")
            for _ in range(_REPETITIONS):
                for name, work in _TIMED.items():
                    start = time.process_time()
                    assert work(path) == _ROWS
                    taken.setdefault((name, kind), []).append(_ROWS / (time.process_time() - start) / 1e6)
    return {key: statistics.median(values) for key, values in taken.items()}


def _time_ours(path: Path) -> int:
    fragment = FileFragment(InputFile(0, path.name, path.stat().st_size, "v", "csv"))
    source = FileSource.model_validate({"path": path.name})
    batches = read_fragment(Storage(str(path.parent)), fragment, source, COLUMNS, COLUMNS)
    return sum(batch.table.num_rows for batch in batches)


def _time_arrow(path: Path) -> int:
    options = pa_csv.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.string()))
    parse = pa_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=lambda row: "skip")
    return int(pa_csv.read_csv(path, pa_csv.ReadOptions(use_threads=False), parse, options).num_rows)


def _time_duck(path: Path) -> int:
    with duckdb.connect() as connection:
        connection.execute("SET threads = 1")
        return int(connection.execute(_DUCKDB, [str(path)]).to_arrow_table().num_rows)


_TIMED: dict[str, Callable[[Path], int]] = {"rayrec": _time_ours, "DuckDB": _time_duck, "Arrow": _time_arrow}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=3000, help="random files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    console, wrong = Console(), 0
    for seed in asked.seeds:
        table = Table("reader", "broken", "files", "outcome", title=f"seed {seed}")
        for (name, broken), outcomes in judge(asked.files, seed).items():
            said = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common())
            table.add_row(name, broken, f"{outcomes.total():,}", said)
            wrong += outcomes.total() - outcomes["right"] if name == "rayrec" else 0
        console.print(table)
        for (name, kind), speed in speeds(seed).items():
            console.print(f"{name:<8} {kind:<8} {speed:.2f} M rows per CPU second")
    console.print(f"csv_readers: {wrong} files of {asked.files * len(asked.seeds):,} read wrongly by rayrec (bar: 0)")
    sys.exit(1 if asked.check and wrong else 0)


if __name__ == "__main__":
    main()
