"""`data`: where the events and items lie, which column is what, and what an event is worth."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from rayrec.contracts import patterns
from rayrec.contracts.times import strptime_can_read


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _pattern(text: str) -> str:
    if problem := patterns.problem_of(text):
        raise ValueError(problem)
    return text


def _one_group(text: str) -> str:
    if problem := patterns.problem_of(text, one_group=True):
        raise ValueError(problem)
    return text


def _timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"{name!r} is not a known time zone; write it like Europe/London") from None
    return name


def _encoding(name: str) -> str:
    try:
        "".encode(name)
    except LookupError:
        raise ValueError(f"{name!r} is not a known text encoding; write it like utf8 or latin-1") from None
    return name


def _delimiter(text: str) -> str:
    if not text or set(text) & set('"\r\n'):
        raise ValueError("a delimiter is one or more characters, none of them a quote or a line break")
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]  # RE2
GroupPattern = Annotated[str, AfterValidator(_one_group)]  # RE2 with exactly one group


class Column(Section):
    """Where a field comes from: a column as it is, or the part of it that `extract` (RE2, one group) matches."""

    column: str
    extract: GroupPattern | None = None


ColumnLike = str | Column


class Timestamp(Section):
    """A time column: text in `format` (strptime), a number of `unit`s since the epoch, else ISO 8601 or typed."""

    column: str
    format: str | None = None
    unit: Literal["s", "ms", "us", "ns"] | None = None
    timezone: Annotated[str, AfterValidator(_timezone)] = "UTC"  # of times that do not carry one

    @model_validator(mode="after")
    def _one_reading(self) -> Timestamp:
        if self.format and self.unit:
            raise ValueError("a time is text in `format` or a number of `unit`s, not both")
        if self.format and not strptime_can_read(self.format):
            raise ValueError(f"times in the format {self.format!r} cannot be read; %f and %p are not supported")
        return self


class EventRule(Section):
    """The event is `event` where the text of `column` starts with, equals or matches (RE2) the value given."""

    column: str
    event: str
    starts_with: str | None = None
    equals: str | None = None
    matches: Pattern | None = None

    @model_validator(mode="after")
    def _one_test(self) -> EventRule:
        if sum(test is not None for test in (self.starts_with, self.equals, self.matches)) != 1:
            raise ValueError("give exactly one of starts_with, equals, matches")
        return self


class EventDerivation(Section):
    """First rule that fits wins; then the text of `column`, if named; then `default`."""

    column: str | None = None
    default: str = "interaction"
    rules: tuple[EventRule, ...] = ()


class Requirement(Section):
    """Rows whose `column` does not match (RE2) go to quarantine with `reason`."""

    column: str
    matches: Pattern
    reason: str = Field(pattern="^[a-z][a-z0-9_]*$")


class FileSource(Section):
    """Files of rows: `path` under `data.root` (file, folder or glob; `a.b` inside names is no problem)."""

    path: str
    format: Literal["auto", "csv", "parquet", "jsonl"] = "auto"
    delimiter: Annotated[str, AfterValidator(_delimiter)] = ","
    header: bool = True
    names: tuple[str, ...] = ()  # column names when there is no header
    encoding: Annotated[str, AfterValidator(_encoding)] = "utf8"

    @model_validator(mode="after")
    def _named_columns(self) -> Self:
        if self.header == bool(self.names):
            raise ValueError("give `names` exactly when the files have no header (header: false)")
        if len(set(self.names)) < len(self.names):
            raise ValueError("`names` repeats a column")
        return self


class InteractionSource(FileSource):
    user_id: ColumnLike = "user_id"
    item_id: ColumnLike = "item_id"
    ts: str | Timestamp = "ts"
    value: ColumnLike | None = None
    dwell_ms: ColumnLike | None = None
    event: EventDerivation = EventDerivation()
    require: tuple[Requirement, ...] = ()
    # In a file's path: the one day, of UTC or of the time column's zone, whose rows it holds. Paths that name another
    # day (of an export, say) need a pattern that does not match it.
    day_pattern: GroupPattern = r"(\d{4}-\d{2}-\d{2})"


class ItemSource(FileSource):
    """The catalogue as files of its own, or (`from_interactions`) out of the interaction rows themselves.

    Out of interactions, each field is its most frequent non-empty value before the date.
    """

    path: str = ""
    from_interactions: bool = False
    item_id: ColumnLike = "item_id"
    title: ColumnLike | None = "title"
    category: ColumnLike | None = None
    description: ColumnLike | None = None
    available: ColumnLike | None = None
    attributes: dict[str, ColumnLike] = {}

    @model_validator(mode="after")
    def _one_origin(self) -> ItemSource:
        if bool(self.path) == self.from_interactions:
            raise ValueError("give data.items.path, or from_interactions: true, not both")
        return self


class InstructionSource(FileSource):
    """What users ask for, in words: rows for a user or for everybody (`*`), in one arm or (arm empty) in all.

    A column that the files lack is set to null here.
    """

    user_id: ColumnLike = "user_id"
    arm: ColumnLike | None = "arm"
    preference: ColumnLike | None = "preference"
    intention: ColumnLike | None = "intention"
    max_quarantine_share: float = Field(0.05, ge=0, le=1)

    @model_validator(mode="after")
    def _some_words(self) -> InstructionSource:
        if self.preference is None and self.intention is None:
            raise ValueError("data.instructions needs a column of preferences, of intentions, or both")
        return self


class Data(Section):
    root: str = ""
    interactions: InteractionSource
    items: ItemSource
    instructions: InstructionSource | None = None
    events: dict[str, float] = {"interaction": 1.0}
    """Known event names. Weight > 0: a positive, trained on with that weight; 0: seen only; < 0: evidence against."""
    window_days: int = Field(90, ge=1, le=36_500)  # a century, which is everything
    max_quarantine_share: float = Field(0.05, ge=0, le=1)
    min_events: int = Field(1, ge=0)  # users with fewer positive events are ineligible
    history_limit: int = Field(100, ge=1)  # newest events kept per user
    shards: int = Field(16, ge=1, le=100_000)
    split_bytes: int = Field(64 << 20, ge=1 << 10)  # input bytes read by one ingest task

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
