"""`feedback`: where logged feedback on slates lies, and which column is what."""

from __future__ import annotations

from pydantic import Field

from rayrec.config.data import ColumnLike, FileSource


class Feedback(FileSource):
    """One row an item that was shown: files under `root`, by default `data.root`."""

    root: str | None = None
    slate_id: ColumnLike = "slate_id"
    rank: ColumnLike = "rank"
    item_id: ColumnLike = "item_id"
    reward: ColumnLike = "reward"
    propensity: ColumnLike = "propensity"
    depth: int = Field(10, ge=1, le=20)  # ranks of a slate that count when other arms are judged by it
    max_quarantine_share: float = Field(0.05, ge=0, le=1)
