"""The JSON documents of a run: its record, the receipt of each shard, and the manifest that publishes it.

The order of keys is fixed. They contain no secrets: paths are relative to a root, settings come from the config.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError

from rayrec.errors import ConfigError, PublicationError
from rayrec.numerics.hashing import digest

_ARM_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")  # used as a folder name


class Document:
    """A dataclass stored as JSON."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    def to_json(self) -> bytes:
        content = dataclasses.asdict(self)  # type: ignore[call-overload]
        return (json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Self:
        """Parse a document. Raises PublicationError for invalid content."""
        try:
            return TypeAdapter(cls).validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "document"
            raise PublicationError(
                f"this is not a {cls.__name__.lower()} of this version of rayrec: {field}: {first['msg']}",
                where=where,
                hint="read it with the version of rayrec that wrote it, or move it away",
            ) from error


@dataclass(frozen=True)
class InputRecord:
    """An input file: its path under the data root, size in bytes, and version (ETag or mtime in ns)."""

    path: str
    size: int
    version: str
    rows: int | None = None  # set once the file is read; not part of the run's identity


@dataclass(frozen=True)
class RunRecord(Document):
    """The identity of a run: everything that determines what it computes."""

    date: datetime.date
    fingerprint: str  # Config.fingerprint
    fingerprinted_settings: Mapping[str, Any]  # what the fingerprint covers, to show differences
    inputs: tuple[InputRecord, ...]
    shards: int
    arms: tuple[str, ...]
    code_version: str

    def __post_init__(self) -> None:
        for arm in self.arms:
            if not _ARM_NAME.fullmatch(arm):
                raise ConfigError(
                    f"{arm!r} cannot name an arm", where="arms.variants", hint="use letters, digits, '_', '-' and '.'"
                )

    @property
    def identity(self) -> str:
        """Digest of date, settings and inputs. A date published with the same identity is not published again."""
        inputs = sorted((file.path, file.size, file.version) for file in self.inputs)
        return digest([self.date.isoformat(), self.fingerprint, inputs])

    @property
    def run_id(self) -> str:
        """Digest of identity and code version: only the code version that began a run resumes its shards."""
        return digest([self.identity, self.code_version])


@dataclass(frozen=True)
class UserCounts:
    """Users of a shard or run: users_in = published + quarantined + ineligible; the last two by reason."""

    users_in: int
    published: int  # users with a slate in at least one arm
    quarantined: Mapping[str, int] = field(default_factory=dict)
    ineligible: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: UserCounts) -> UserCounts:
        return UserCounts(
            self.users_in + other.users_in,
            self.published + other.published,
            add_counts(self.quarantined, other.quarantined),
            add_counts(self.ineligible, other.ineligible),
        )

    def balance_error(self) -> str:
        """Empty if the users add up, else the inconsistent sum."""
        quarantined, ineligible = sum(self.quarantined.values()), sum(self.ineligible.values())
        if self.users_in == self.published + quarantined + ineligible:
            return ""
        return (
            f"{self.users_in} users in, but {self.published} published"
            f" + {quarantined} quarantined + {ineligible} ineligible"
        )


def utc_now() -> str:
    """Current time, ISO 8601 to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def add_counts(left: Mapping[str, int], right: Mapping[str, int]) -> dict[str, int]:
    return {key: left.get(key, 0) + right.get(key, 0) for key in sorted({*left, *right})}


@dataclass(frozen=True)
class PublishedFile:
    """One published parquet file."""

    arm: str
    shard: int
    path: str  # relative to the output root
    rows: int
    users: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Receipt(Document):
    """Receipt of a finished shard: the attempt that counts, its files and its users."""

    shard: int
    run_id: str
    attempt: str
    created_at: str
    users: UserCounts
    engine: Mapping[str, int]
    files: tuple[PublishedFile, ...]


@dataclass(frozen=True)
class Provenance:
    """What the driver adds to the manifest: models, inputs and versions behind the slates."""

    users_in: int  # users of the histories of all shards; no shard may lose one
    models: Mapping[str, str] = field(default_factory=dict)  # name -> fingerprint or revision
    prompt_hash: str = ""
    input_rows: Mapping[str, int] = field(default_factory=dict)  # input path -> rows read
    quarantined_rows: Mapping[str, int] = field(default_factory=dict)  # by reason
    versions: Mapping[str, str] = field(default_factory=dict)  # python, ray, vllm, ...


@dataclass(frozen=True)
class Manifest(Document):
    """The publication of one date. Readers use only the files that it names."""

    dt: datetime.date
    run_id: str
    identity: str
    attempt: str
    created_at: str
    fingerprint: str
    code_version: str
    versions: Mapping[str, str]
    models: Mapping[str, str]
    prompt_hash: str
    shards: int
    arms: tuple[str, ...]
    users: UserCounts
    rows: int
    quarantined_rows: Mapping[str, int]
    engine: Mapping[str, int]
    fingerprinted_settings: Mapping[str, Any]
    inputs: tuple[InputRecord, ...]
    files: tuple[PublishedFile, ...]

    @property
    def record(self) -> RunRecord:
        """The record of the run that was published."""
        return RunRecord(
            self.dt,
            self.fingerprint,
            self.fingerprinted_settings,
            self.inputs,
            self.shards,
            self.arms,
            self.code_version,
        )
