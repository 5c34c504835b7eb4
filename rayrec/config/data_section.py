"""`data` and `feedback`: the input files, the meaning of their columns, and the weights of events."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rayrec.config.file_source import ColumnLike, FileSource, GroupPattern, Pattern, RelativePath, Timestamp
from rayrec.config.section import Section, StorageUrl

LEAST_SHARDS = 16  # of `auto`


class EventRule(Section):
    """A rule for the event type: `event`, where the text of `column` passes the test. Give exactly one test."""

    column: str
    """The column to test."""
    event: str
    """The event's name, one of `data.events`."""
    starts_with: str | None = None
    """Passes if the text starts with this."""
    equals: str | None = None
    """Passes if the text equals this."""
    matches: Pattern | None = None
    """Passes if this pattern (RE2) is found in the text."""

    @model_validator(mode="after")
    def _one_test(self) -> EventRule:
        if sum(test is not None for test in (self.starts_with, self.equals, self.matches)) != 1:
            raise ValueError("give exactly one of starts_with, equals, matches")
        return self


class EventDerivation(Section):
    """The event type of a row: from the first rule that applies, else the text of `column`, else `default`."""

    column: str | None = None
    """The column that names the event. Rows with an event that is not in `data.events` are quarantined."""
    default: str = "interaction"
    """The event of rows where no rule applies and `column` is empty or not given."""
    rules: tuple[EventRule, ...] = ()
    """Rules that derive events from other columns, such as returns from invoice numbers."""


class Requirement(Section):
    """A condition on rows: those whose `column` does not match are quarantined with `reason`."""

    column: str
    """The column to test."""
    matches: Pattern
    """The pattern (RE2) that must be found in the text; an empty cell never matches."""
    reason: str = Field(pattern="^[a-z][a-z0-9_]*$")
    """The reason shown in quarantine and report: `a-z`, `0-9` and `_`."""


class InteractionSource(FileSource):
    """The interactions, one event a row. Of Hive partitions (`dt=2011-08-31/`) or daily files only the days in the
    window are read."""

    user_id: ColumnLike = "user_id"
    """The user id, text of at most 256 characters. Rows without one are quarantined."""
    item_id: ColumnLike = "item_id"
    """The item id, text of at most 256 characters. Rows whose item is not in the catalogue are quarantined."""
    ts: str | Timestamp = "ts"
    """The time of the event. A bare column name is enough for ISO 8601 and for columns of a time type."""
    value: ColumnLike | None = None
    """A number that belongs to the event, such as a rating or a quantity; may be empty."""
    dwell_ms: ColumnLike | None = None
    """Dwell time in milliseconds, 0 to 24 days; may be empty."""
    event: EventDerivation = EventDerivation()
    """The event type."""
    organic: ColumnLike | None = None
    """True, or 1, where the user found the item himself; false, or 0, where it was shown to him: such an event has the
    type `NAME (shown)` if `data.events` names it, with a weight of its own. Empty: organic."""
    require: tuple[Requirement, ...] = ()
    """Conditions that every row must meet."""
    day_pattern: GroupPattern = r"(\d{4}-\d{2}-\d{2})"
    """In a file's path: the single day, in UTC or the time column's zone, whose rows the file holds. Of several days
    that the default finds, one in the window is enough. If paths contain only another date (of an export, say), give a
    pattern that does not match it."""


class ItemSource(FileSource):
    """The catalogue: from its own files, or (`from_interactions`) derived from the interaction rows.

    With `from_interactions`, each field is its most frequent non-empty value before the date.
    """

    path: RelativePath = ""
    """File, folder or glob, below the root; empty with `from_interactions`."""
    from_interactions: bool = False
    """Whether to derive the items from the interactions; the columns below are then columns of the interactions."""
    item_id: ColumnLike = "item_id"
    """The item id, as in the interactions. Of several rows with one id the first is used."""
    title: ColumnLike | None = "title"
    """The item's title; its id where there is none."""
    category: ColumnLike | None = None
    """The item's category, used by requests, `max_per_category`, diversification and the report."""
    description: ColumnLike | None = None
    """A longer text; read only if `rerank.fields` names it."""
    available: ColumnLike | None = None
    """Whether the item can be recommended: `true`, `1`, `yes`, `y`, `t` or their opposites; empty means yes.
    Unavailable items are used for learning but never recommended."""
    available_from: ColumnLike | None = None
    """The time from which an item can be recommended, ISO 8601, UTC if it names no zone; empty means always. Before it
    an announced item is proposed only within `retrieval.launch_days`. At earlier cutoffs the blend learns from the
    items that were available then."""
    attributes: dict[str, ColumnLike] = Field({})
    """Further fields under names of your choice, for `slate.rules.ranges` and price bands."""

    @model_validator(mode="after")
    def _one_origin(self) -> ItemSource:
        if bool(self.path) == self.from_interactions:
            raise ValueError("give data.items.path, or from_interactions: true, not both")
        return self


class InstructionSource(FileSource):
    """The instruction table: rows for one user or for all (`*`), in one arm or (arm empty) in all.

    Set a column to `null` if the files lack it.
    """

    user_id: ColumnLike = "user_id"
    """The user; `*` stands for all users. A user's own row takes precedence."""
    arm: ColumnLike | None = "arm"
    """The arm; empty stands for all arms. A row of the arm takes precedence."""
    preference: ColumnLike | None = "preference"
    """The user profile text: what the user likes."""
    intention: ColumnLike | None = "intention"
    """The request: what the user wants now. A row needs at least one of the two texts."""
    max_quarantine_share: float = Field(0.05, ge=0, le=1)
    """Largest share of invalid rows; above it nothing is published."""

    @model_validator(mode="after")
    def _some_words(self) -> InstructionSource:
        if self.preference is None and self.intention is None:
            raise ValueError("data.instructions needs a column of preferences, of intentions, or both")
        return self


_SHOWN = " (shown)"


def shown_event(name: str) -> str | None:
    """The event type of which this one is the variant that was shown; None if it is none."""
    return name.removesuffix(_SHOWN) if name.endswith(_SHOWN) else None


class Data(Section):
    """The input files, the meaning of their columns, and the weights of events."""

    root: StorageUrl = ""
    """Folder or URL (`s3://…`, `gs://…`, `az://…`) that the paths below are relative to; usually given by
    `--set data.root=DIR`."""
    interactions: InteractionSource
    """The interactions."""
    items: ItemSource
    """The catalogue."""
    instructions: InstructionSource | None = None
    """The instruction table; `null`: no user has an instruction."""
    events: dict[str, float] = Field({"interaction": 1.0})
    """All event types, 1 to 127, with their weights. Above 0: positive, weight in learning; 0: only seen; below 0:
    negative evidence (a return)."""
    window_days: int = Field(90, ge=1, le=36_500)
    """Days before `--date` that are read; 36,500 reads everything."""
    max_quarantine_share: float = Field(0.05, ge=0, le=1)
    """Largest share of invalid interaction rows; above it nothing is published."""
    min_events: int = Field(1, ge=0)
    """Users with fewer positive events get no slate. 0 makes users with any event eligible: see `slate.fallback`."""
    history_limit: int = Field(100, ge=1)
    """Number of newest events retained per user; older ones are dropped before any learning."""
    shards: Annotated[int, Field(ge=1, le=100_000)] | Literal["auto"] = "auto"
    """Number of shards that users are divided into: the unit of recovery, and what one task holds in memory. `auto`:
    about 4,000 users each, by the size of the interaction files of the window, and at least 16."""
    split_bytes: int = Field(64 << 20, ge=1 << 10)
    """Bytes of input per ingest task; a text file is never split."""

    @property
    def shard_count(self) -> int:
        """The number of shards; a run's config has a number in place of `auto`."""
        return LEAST_SHARDS if self.shards == "auto" else self.shards

    @model_validator(mode="after")
    def _known_events(self) -> Data:
        if not 1 <= len(self.events) <= 127:
            raise ValueError("`events` names between 1 and 127 events")
        if not all(math.isfinite(weight) for weight in self.events.values()):
            raise ValueError("the weight of an event is a finite number")
        rules = self.interactions.event
        made = [rule.event for rule in rules.rules] + ([] if rules.column else [rules.default])
        if self.interactions.organic is not None and not any(map(shown_event, self.events)):
            raise ValueError("interactions.organic has no effect: name an event `NAME (shown)` in data.events")
        if unknown := sorted(set(made) - set(self.events)):
            raise ValueError(f"data.interactions.event makes {unknown}, which data.events does not name")
        return self


class Feedback(FileSource):
    """Logged feedback on published slates, for `jobs.evaluate`: items shown, and what users did with them.

    Rows of one item in one showing are merged: equal rows count once, the rewards of the others add up. So a log may
    hold an impression and its clicks in rows of their own, in any order. Files may mix days.
    """

    root: str | None = None
    """Folder or fsspec URL that `path` is relative to; `null`: `data.root`."""
    slate_id: ColumnLike = "slate_id"
    """The slate's id, as published."""
    impression_id: ColumnLike | None = None
    """One showing of the slate, where a slate is shown more than once; `null`: a slate is shown once."""
    rank: ColumnLike | None = "rank"
    """The item's rank in the slate, from 1. `null`, or an empty cell: the rank at which the slate has the item."""
    item_id: ColumnLike = "item_id"
    """The item shown."""
    reward: ColumnLike = "reward"
    """The observed reward, a number or a boolean; 0 where nothing happened. Not read where `event` is given."""
    event: ColumnLike | None = None
    """The type of each row, such as `impression`, `click`, `purchase`; its reward is in `rewards`."""
    rewards: dict[str, float] = Field({})
    """Reward of each event type: `{impression: 0, click: 1}`. Rows of other types are quarantined."""
    propensity: ColumnLike | None = "propensity"
    """The propensity the slate was published with, above 0 and at most 1. `null`, or an empty cell: as published."""
    time: str | Timestamp | None = None
    """The time of each row; needed for `attribution_hours`."""
    attribution_hours: float | None = Field(None, gt=0)
    """Rewards later than this after the first row of the showing do not count; the rows are counted as late."""
    depth: int = Field(10, ge=1, le=20)
    """Ranks of a slate that count in off-policy estimates of other arms."""
    max_quarantine_share: float = Field(0.05, ge=0, le=1)
    """Largest share of invalid rows; above it there is no evaluation."""

    @model_validator(mode="after")
    def _complete(self) -> Feedback:
        if (self.event is None) != (not self.rewards):
            raise ValueError("feedback.event needs feedback.rewards, and feedback.rewards needs feedback.event")
        if not all(math.isfinite(reward) for reward in self.rewards.values()):
            raise ValueError("feedback.rewards must be finite numbers")
        if self.attribution_hours is not None and self.time is None:
            raise ValueError("feedback.attribution_hours needs feedback.time")
        return self
