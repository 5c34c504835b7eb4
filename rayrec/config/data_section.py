"""`data` and `feedback`: where the input files lie, which column is what, and what an event is worth."""

from __future__ import annotations

import math

from pydantic import Field, model_validator

from rayrec.config.file_source import ColumnLike, FileSource, GroupPattern, Pattern, Timestamp
from rayrec.config.section import Section


class EventRule(Section):
    """The event is `event` where the text of `column` passes the one test that is given."""

    column: str
    """The column that is looked at."""
    event: str
    """The event's name, one of `data.events`."""
    starts_with: str | None = None
    """The text starts with this."""
    equals: str | None = None
    """The text is this."""
    matches: Pattern | None = None
    """This pattern (RE2) is found in the text."""

    @model_validator(mode="after")
    def _one_test(self) -> EventRule:
        if sum(test is not None for test in (self.starts_with, self.equals, self.matches)) != 1:
            raise ValueError("give exactly one of starts_with, equals, matches")
        return self


class EventDerivation(Section):
    """What happened in a row: the first rule that fits says it; then the text of `column`; then `default`."""

    column: str | None = None
    """The column that names the event. A name that `data.events` does not have sends the row to quarantine."""
    default: str = "interaction"
    """The event of rows where no rule fits and `column` is empty, or not given."""
    rules: tuple[EventRule, ...] = ()
    """Events told from other columns, such as returns from invoice numbers."""


class Requirement(Section):
    """Rows whose `column` does not match go to quarantine with `reason`."""

    column: str
    """The column that is looked at."""
    matches: Pattern
    """The pattern (RE2) that is to be found in its text; an empty cell has nothing to find it in."""
    reason: str = Field(pattern="^[a-z][a-z0-9_]*$")
    """What quarantine and report call it: `a-z`, `0-9` and `_`."""


class InteractionSource(FileSource):
    """The events: one row each. Hive partitions (`dt=2011-08-31/`), or a file a day, are read as far as needed."""

    user_id: ColumnLike = "user_id"
    """Who; text of at most 256 characters. A row without one goes to quarantine."""
    item_id: ColumnLike = "item_id"
    """What; text of at most 256 characters. A row whose item the catalogue does not have goes to quarantine."""
    ts: str | Timestamp = "ts"
    """When. A bare column name is enough for ISO 8601 and for columns of a time type."""
    value: ColumnLike | None = None
    """A number that comes with the event, such as a rating or a quantity; may be empty."""
    dwell_ms: ColumnLike | None = None
    """How long the user looked, in milliseconds, 0 to 24 days; may be empty."""
    event: EventDerivation = EventDerivation()
    """What happened."""
    require: tuple[Requirement, ...] = ()
    """What a row must look like to count."""
    day_pattern: GroupPattern = r"(\d{4}-\d{2}-\d{2})"
    """In a file's path: the one day, of UTC or of the time column's zone, whose rows it holds. Where paths name
    another day (of an export, say), give a pattern that does not match it: then all files are read."""


class ItemSource(FileSource):
    """The catalogue as files of its own, or (`from_interactions`) out of the interaction rows themselves.

    Out of interactions, each field is its most frequent non-empty value before the date.
    """

    path: str = ""
    """File, folder or glob, below the root; empty with `from_interactions`."""
    from_interactions: bool = False
    """Whether the items come out of the interactions: then the columns below are theirs."""
    item_id: ColumnLike = "item_id"
    """The id, as interactions say it. Of several rows with one id the first stands."""
    title: ColumnLike | None = "title"
    """What the item is called; its id, where there is none."""
    category: ColumnLike | None = None
    """What kind of item it is: for requests, `max_per_category`, diversity and the report."""
    description: ColumnLike | None = None
    """A longer text; read only where `rerank.fields` names it."""
    available: ColumnLike | None = None
    """Yes or no (`true`, `1`, `yes`, `y`, `t` and their opposites), empty: yes. What is not to be had is learned from,
    but never recommended."""
    attributes: dict[str, ColumnLike] = Field({})
    """More fields, under names of yours: for `slate.rules.ranges` and price bands."""

    @model_validator(mode="after")
    def _one_origin(self) -> ItemSource:
        if bool(self.path) == self.from_interactions:
            raise ValueError("give data.items.path, or from_interactions: true, not both")
        return self


class InstructionSource(FileSource):
    """What users ask for, in words: rows for a user or for everybody (`*`), in one arm or (arm empty) in all.

    Where the files lack a column, set it to `null` here.
    """

    user_id: ColumnLike = "user_id"
    """Who asks; `*` is everybody, behind a user's own row."""
    arm: ColumnLike | None = "arm"
    """In which arm; empty: in all, behind a row of the arm."""
    preference: ColumnLike | None = "preference"
    """What the user likes, in words."""
    intention: ColumnLike | None = "intention"
    """What the user wants now, in words. A row needs one of the two."""
    max_quarantine_share: float = Field(0.05, ge=0, le=1)
    """The share of rows that may break the contract; beyond it nothing is published."""

    @model_validator(mode="after")
    def _some_words(self) -> InstructionSource:
        if self.preference is None and self.intention is None:
            raise ValueError("data.instructions needs a column of preferences, of intentions, or both")
        return self


class Data(Section):
    """Where the events and items lie, which column is what, and what an event is worth."""

    root: str = ""
    """Folder or fsspec URL (`s3://…`) that the paths below stand under; given by `--set data.root=DIR`, mostly."""
    interactions: InteractionSource
    """The events."""
    items: ItemSource
    """The catalogue."""
    instructions: InstructionSource | None = None
    """The table of what users ask for; `null`: nobody asks."""
    events: dict[str, float] = Field({"interaction": 1.0})
    """Every event there is, with a weight. Above 0: wanted, learned from by that weight; 0: only seen; below 0:
    evidence against (a return). 1 to 127 events."""
    window_days: int = Field(90, ge=1, le=36_500)
    """Days before `--date` that are read; a century is everything. More days: more to learn from, more to read."""
    max_quarantine_share: float = Field(0.05, ge=0, le=1)
    """The share of interaction rows that may break the contract; beyond it nothing is published."""
    min_events: int = Field(1, ge=0)
    """Users with fewer positive events get no slate. 0 lets everybody with any event through: see `slate.fallback`."""
    history_limit: int = Field(100, ge=1)
    """Newest events kept of each user; the others are left out before anything is learned."""
    shards: int = Field(16, ge=1, le=100_000)
    """Parts that the users are dealt into: what a lost node costs, and what one task holds in memory. About 4,000 users
    each is a good size."""
    split_bytes: int = Field(64 << 20, ge=1 << 10)
    """Bytes of input that one ingest task reads; a text file is never cut."""

    @model_validator(mode="after")
    def _known_events(self) -> Data:
        if not 1 <= len(self.events) <= 127:
            raise ValueError("`events` names between 1 and 127 events")
        if not all(math.isfinite(weight) for weight in self.events.values()):
            raise ValueError("the weight of an event is a finite number")
        rules = self.interactions.event
        made = [rule.event for rule in rules.rules] + ([] if rules.column else [rules.default])
        if unknown := sorted(set(made) - set(self.events)):
            raise ValueError(f"data.interactions.event makes {unknown}, which data.events does not name")
        return self


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
