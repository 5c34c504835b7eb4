"""Any bytes in a file give a clear error or quarantine, and every row is counted exactly once."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_shop import HEADER, ITEMS, ROWS, Outcome, good_config, run

from rayrec.errors import RayrecError

CELL = st.one_of(
    st.sampled_from(
        ["ann", "tea", "cup", "", " ", "2011-08-30", "2011-08-30T08:00:00+02:00", "view", "purchase", "1e999", "-1"]
    ),
    st.sampled_from(
        ["NaN", "0x1", "1_0", "\u202e", "\x00", "٣", "2011-02-29", "+1", ".", "é", "\ufffd", "\u2028", "1."]
    ),
    st.text(st.characters(exclude_characters='"\r\n,', exclude_categories=("Cs",)), max_size=8),
)


def ingest(name: str, content: bytes, **interactions: object) -> Outcome | None:
    """The outcome; None if the input was refused with a clear error."""
    config = good_config()
    config["data"]["interactions"] |= {"path": name, **interactions}
    config["data"]["max_quarantine_share"] = 1.0
    with tempfile.TemporaryDirectory() as folder:
        try:
            return run(Path(folder), config, {name: content, "items.csv": ITEMS})
        except RayrecError as error:
            if len(str(error)) < 20:
                raise
            return None


def assert_every_row_is_somewhere(outcome: Outcome | None) -> None:
    """Check that each row has one outcome; a refused input has no rows."""
    if outcome is None:
        return
    rows = outcome.rows
    assert rows.rows == rows.accepted + rows.quarantined.total() + rows.outside_window
    assert rows.quarantined.total() == outcome.quarantine.num_rows


@given(content=st.binary(max_size=300))
@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("name", ["e.csv", "e.jsonl", "e.parquet", "e.csv.gz"])
def test_random_bytes_are_refused_or_quarantined(name: str, content: bytes) -> None:
    assert_every_row_is_somewhere(ingest(name, content))


@given(content=st.binary(max_size=200), at=st.integers(0, len(ROWS)))
@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("encoding", ["utf8", "latin-1", "utf-16"])
def test_random_bytes_among_good_rows_are_refused_or_quarantined(encoding: str, content: bytes, at: int) -> None:
    whole = (HEADER + ROWS).encode()
    at += len(HEADER)
    assert_every_row_is_somewhere(ingest("e.csv", whole[:at] + content + whole[at:], encoding=encoding))


@pytest.mark.parametrize("delimiter", [",", "::"])
@given(rows=st.lists(st.lists(CELL, min_size=1, max_size=7), max_size=12))
@settings(max_examples=25, deadline=None)
def test_every_row_is_accepted_quarantined_or_outside_the_window(delimiter: str, rows: list[list[str]]) -> None:
    lines = [delimiter.join(cells) for cells in rows]
    header, *good = (HEADER + ROWS).replace(",", delimiter).splitlines()
    content = "\n".join([header, *good, *lines])
    outcome = ingest("e.csv", content.encode(), delimiter=delimiter)
    assert outcome is not None
    kept = [line for line in lines if (line if delimiter == "," else line.strip())]
    assert outcome.rows.rows == 3 + len(kept)
    assert set(outcome.histories()) >= {"ann", "bob"}
    # A row's number is its line: quarantine points at the right one.
    for row in outcome.quarantine.to_pylist():
        if row["reason"] == "malformed_row":
            assert len([*good, *kept][row["row"] - 1].split(delimiter)) != 6
