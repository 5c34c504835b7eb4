"""`feedback`: where logged feedback on slates lies, and which column is what."""

from __future__ import annotations

from pydantic import Field

from rayrec.config.file_source import ColumnLike, FileSource


class Feedback(FileSource):
    """Logged feedback on published slates, for `jobs.evaluate`: one row an item that was shown, taken or not.

    A slate of which a rank is missing goes to quarantine whole. Files may mix days.
    """

    root: str | None = None
    """Folder or fsspec URL that `path` stands under; `null`: `data.root`."""
    slate_id: ColumnLike = "slate_id"
    """The slate, as published."""
    rank: ColumnLike = "rank"
    """The item's place in it, from 1."""
    item_id: ColumnLike = "item_id"
    """The item that was shown."""
    reward: ColumnLike = "reward"
    """What came of it, a number; 0 where nothing happened."""
    propensity: ColumnLike = "propensity"
    """The probability that the slate was published with, above 0 and at most 1."""
    depth: int = Field(10, ge=1, le=20)
    """Ranks of a slate that count when other arms are judged by it."""
    max_quarantine_share: float = Field(0.05, ge=0, le=1)
    """The share of rows that may break the contract; beyond it nothing is judged."""
