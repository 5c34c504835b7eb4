"""The configuration: one pydantic tree, read from YAML, overridden with `--set a.b=c`.

    python -m rayrec.config --schema > rayrec.schema.json     # for editors

Unknown keys are errors that name the nearest known key. Nothing here is a secret: credentials come from the
environment (fsspec, AWS, Ray), never from config.
"""

from __future__ import annotations

import difflib
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from rayrec.contracts import patterns
from rayrec.contracts.times import strptime_can_read
from rayrec.errors import ConfigError
from rayrec.hashing import digest


class _Section(BaseModel):
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


class Column(_Section):
    """Where a field comes from: a column as it is, or the part of it that `extract` (RE2, one group) matches."""

    column: str
    extract: GroupPattern | None = None


ColumnLike = str | Column


class Timestamp(_Section):
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


class EventRule(_Section):
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


class EventDerivation(_Section):
    """First rule that fits wins; then the text of `column`, if named; then `default`."""

    column: str | None = None
    default: str = "interaction"
    rules: tuple[EventRule, ...] = ()


class Requirement(_Section):
    """Rows whose `column` does not match (RE2) go to quarantine with `reason`."""

    column: str
    matches: Pattern
    reason: str = Field(pattern="^[a-z][a-z0-9_]*$")


class FileSource(_Section):
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
    day_pattern: GroupPattern = r"(\d{4}-\d{2}-\d{2})"  # in a file's path: the one UTC day whose rows it holds


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


class Data(_Section):
    root: str = ""
    interactions: InteractionSource
    items: ItemSource
    events: dict[str, float] = {"interaction": 1.0}
    """Known event names. Weight > 0: a positive, trained on with that weight; 0: seen only; < 0: evidence against."""
    window_days: int = Field(90, ge=1)
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


class Denoise(_Section):
    method: str = "influence"  # a name in rayrec.denoising; "none" keeps everything
    settings: dict[str, Any] = {}


class Retrieval(_Section):
    sources: dict[str, dict[str, Any]] = {
        "ease": {},
        "ease_recent": {"kind": "ease", "history_half_life_days": 14.0},
        "item_knn": {"top": 0},
        "user_knn_2d": {"kind": "user_knn", "half_life_days": 2.0},
        "user_knn_7d": {"kind": "user_knn", "half_life_days": 7.0},
        "user_knn_28d": {"kind": "user_knn", "half_life_days": 28.0, "top": 0},
        "popularity": {"top": 0},
        "recent_popularity_1d": {"kind": "recent_popularity", "half_life_days": 1.0},
        "recent_popularity_8d": {"kind": "recent_popularity", "half_life_days": 8.0},
    }
    """Name -> `kind` (a retriever; default: the name), `top` (default: per_source) and the retriever's own settings."""
    per_source: int = Field(100, ge=1)  # top N of each source enter the union
    exclude_seen: bool = True


class Fit(_Section):
    """Bounds of the item model's fit."""

    max_events: int = Field(20_000_000, ge=1)  # beyond it whole users are left out, chosen by their stable hash


class Blend(_Section):
    """How the final score is learned: on the days before the date, cut by cut, with everything fitted before it."""

    cuts: int = Field(2, ge=0)  # 0: nothing is learned, the default weights stand
    horizon_days: float = Field(7.0, gt=0)  # what users took within this time after a cut is what is learned
    min_events: int = Field(3, ge=0)  # users with fewer positive events before the cut do not teach
    sample_users: int = Field(
        40_000, ge=1
    )  # users looked at, chosen by their stable hash; those who took something teach
    l2: float = Field(1e-3, gt=0)


class Instruction(_Section):
    """What is asked for, in words; the same for everybody here (a table per user is an input of its own)."""

    text: str = "Recommend what this user will want next."
    max_chars: int = Field(300, ge=1)


class Tuning(_Section):
    base: str = "scratch"  # or the path of a local Hugging Face checkpoint, tuned with LoRA
    layers: int = Field(2, ge=1)  # layers to feedforward: of the model made from scratch
    width: int = Field(64, ge=32)
    heads: int = Field(2, ge=1)
    feedforward: int = Field(192, ge=64, multiple_of=64)  # whole vectors for the kernels
    events: int = Field(100, ge=1)  # newest events in a prompt
    min_item_events: int = Field(3, ge=1)  # items with fewer events get no token, and no LLM score
    horizon_days: float = Field(7.0, gt=0)  # the model learns which new items a user takes within this time
    target_half_life_days: float = Field(28.0, ge=0)  # a target's weight halves with this age; 0: all weigh the same
    item_dropout: float = Field(0.1, ge=0, lt=1)  # share of history items left out at random while learning
    epochs: int = Field(6, ge=1)  # at most: the validation decides
    patience: int = Field(2, ge=1)  # epochs without a better validation before stopping
    batch_tokens: int = Field(2048, ge=256)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    lora_rank: int = Field(16, ge=1)
    seed: int = 0


class Rerank(_Section):
    method: Literal["none", "item_token"] = "item_token"
    engine: Literal["auto", "vllm", "transformers"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"


class Slate(_Section):
    size: int = Field(50, ge=1, le=1000)
    policy: str = "greedy"


class Arm(_Section):
    """One variant of the scoring settings; what is not named is as in the top-level sections."""

    denoise: Denoise | None = None
    retrieval: Retrieval | None = None
    rerank: Rerank | None = None
    slate: Slate | None = None
    share: float = Field(1.0, gt=0)


class Arms(_Section):
    assignment: Literal["all", "split"] = "all"
    salt: str = "rayrec"
    variants: dict[str, Arm]

    @model_validator(mode="after")
    def _some(self) -> Arms:
        if not self.variants:
            raise ValueError("at least one arm is needed")
        return self


class Resources(_Section):
    """What the job asks of the cluster. Never changes a result, so it is left out of the fingerprint."""

    ingest_tasks: int | None = None  # None: as many as the cluster has CPUs
    score_tasks: int | None = None
    fit_num_cpus: float = Field(2, gt=0)  # of the task that fits the item model
    tune_workers: int = Field(1, ge=1)
    tune_num_cpus: float = Field(2, gt=0)  # of each worker
    tune_num_gpus: Literal[0, 1] = 0
    rerank_actors: int | tuple[int, int] = 1  # number, or (min, max) to autoscale
    rerank_num_gpus: float = 0
    rerank_device: Literal["auto", "cpu"] = "auto"  # auto: CUDA where rerank_num_gpus is above 0
    rerank_num_cpus: float = 1
    rerank_threads: int = Field(
        1, ge=1
    )  # of a CPU engine; with more, scores may differ in their last bits between runs
    local_cpus: int | None = Field(None, ge=1)  # of a local Ray; None: the machine's
    local_object_store_mb: int = Field(1024, ge=128)  # of a local Ray; beyond it Ray spills to disk
    vllm: dict[str, Any] = {}  # passed to vllm.LLM: gpu_memory_utilization, max_model_len, tensor_parallel_size, ...


class Output(_Section):
    root: str = "out"
    examples: int = Field(3, ge=0)  # users shown at the end of the job


class Config(_Section):
    name: str
    data: Data
    denoise: Denoise = Denoise()
    retrieval: Retrieval = Retrieval()
    fit: Fit = Fit()
    blend: Blend = Blend()
    instruction: Instruction = Instruction()
    tuning: Tuning = Tuning()
    rerank: Rerank = Rerank()
    slate: Slate = Slate()
    arms: Arms
    resources: Resources = Resources()
    output: Output = Output()

    @property
    def fingerprint(self) -> str:
        """Of everything that can change a row: not where the data lies, where it goes, or on how many machines."""
        return digest(self.meaning())

    def meaning(self) -> dict[str, Any]:
        """The settings that can change a row, as plain data."""
        content = self.model_dump(mode="json", exclude={"resources", "output"})
        del content["data"]["root"]
        return content


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read YAML, apply overrides (`a.b=c`), validate. Raises ConfigError naming the key and the nearest known one."""
    try:
        text = Path(path).read_text(encoding="utf8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the config: {error}", where=str(path), do="give --config the path of a YAML file"
        ) from None
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}", where=str(path)) from None
    if not isinstance(content, dict):
        raise ConfigError("a config is a mapping of sections", where=str(path), do="start from a file in conf/")
    for override in overrides:
        _apply(content, override)
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise ConfigError(_explain(error), where=str(path)) from None


def _apply(content: dict[str, Any], override: str) -> None:
    key, sign, value = override.partition("=")
    if not sign or not key:
        raise ConfigError(f"cannot read --set {override!r}", do="write it as --set section.key=value")
    *parents, last = key.split(".")
    node = content
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {key}: {parent!r} is a value, not a section")
        node = child
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        node[last] = value


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        line = f"{key}: {problem['msg']}"
        if problem["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(problem["loc"][-1]), _known_keys(), n=1)
            line = f"{key}: unknown key" + (f"; did you mean {near[0]!r}?" if near else "")
        lines.append(line)
    return "\n".join(lines)


def _known_keys() -> list[str]:
    schema = Config.model_json_schema()
    sections = [schema, *schema.get("$defs", {}).values()]
    return sorted({key for section in sections for key in section.get("properties", {})})


if __name__ == "__main__":
    if sys.argv[1:] != ["--schema"]:
        sys.exit("usage: python -m rayrec.config --schema")
    print(json.dumps(Config.model_json_schema(), indent=2))
