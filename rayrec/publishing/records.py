"""The documents of a run: what it is (RunRecord), what a shard gave (Receipt), what was published (Manifest).

All are JSON with a fixed order of keys. Nothing in them is a secret: paths are relative to a root, settings come from
the config.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rayrec.errors import ConfigError, PublicationError
from rayrec.numerics.hashing import digest

Document = TypeVar("Document")

_ARM_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")  # it becomes a folder's name


@dataclass(frozen=True)
class InputRecord:
    """A file the run reads: path under the data root, bytes, the store's version (ETag or mtime in ns)."""

    path: str
    size: int
    version: str
    rows: int | None = None  # known once it has been read; no part of the run's identity


@dataclass(frozen=True)
class RunRecord:
    """What is to be computed: everything that makes two runs the same run."""

    date: datetime.date
    fingerprint: str  # Config.fingerprint
    fingerprinted_settings: Mapping[
        str, Any
    ]  # Config.meaning(): what the fingerprint is of, so that a difference can be shown
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
        """The same date, settings and inputs: a day published under this identity needs no second publication."""
        inputs = sorted((file.path, file.size, file.version) for file in self.inputs)
        return digest([self.date.isoformat(), self.fingerprint, inputs])

    @property
    def run_id(self) -> str:
        """Identity and code version: shards are only ever resumed by the code that began them."""
        return digest([self.identity, self.code_version])

    def to_json(self) -> bytes:
        return _to_json(self)


@dataclass(frozen=True)
class UserCounts:
    """users_in = published + quarantined + ineligible; the last two by reason."""

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
        """Empty when the users add up, else the sum that does not."""
        quarantined, ineligible = sum(self.quarantined.values()), sum(self.ineligible.values())
        if self.users_in == self.published + quarantined + ineligible:
            return ""
        return (
            f"{self.users_in} users in, but {self.published} published"
            f" + {quarantined} quarantined + {ineligible} ineligible"
        )


def utc_now() -> str:
    """ISO 8601 to the second."""
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
class Receipt:
    """A shard is done: which attempt stands, its files, its users."""

    shard: int
    run_id: str
    attempt: str
    created_at: str
    users: UserCounts
    engine: Mapping[str, int]
    files: tuple[PublishedFile, ...]

    def to_json(self) -> bytes:
        return _to_json(self)

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Receipt:
        """Raises PublicationError if the document is not a receipt."""

        def build(content: dict[str, Any]) -> Receipt:
            users = UserCounts(**content.pop("users"))
            files = tuple(PublishedFile(**file) for file in content.pop("files"))
            return cls(users=users, files=files, **content)

        return _from_json(data, "receipt", where, build)


@dataclass(frozen=True)
class Provenance:
    """What only the driver knows at the end: how the slates came about."""

    users_in: int  # users of the histories stage over all shards: no shard may have lost one
    models: Mapping[str, str] = field(default_factory=dict)  # name -> fingerprint or revision
    prompt_hash: str = ""
    input_rows: Mapping[str, int] = field(default_factory=dict)  # input path -> rows read
    quarantined_rows: Mapping[str, int] = field(default_factory=dict)  # input rows refused by the contract, by reason
    versions: Mapping[str, str] = field(default_factory=dict)  # python, ray, vllm, ...


@dataclass(frozen=True)
class Manifest:
    """The publication of one day. Readers follow it and nothing else."""

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
        """The run that this publication is of."""
        return RunRecord(
            self.dt,
            self.fingerprint,
            self.fingerprinted_settings,
            self.inputs,
            self.shards,
            self.arms,
            self.code_version,
        )

    def to_json(self) -> bytes:
        return _to_json(self)

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Manifest:
        """Raises PublicationError if the document is not a manifest."""

        def build(content: dict[str, Any]) -> Manifest:
            return cls(
                dt=datetime.date.fromisoformat(content.pop("dt")),
                arms=tuple(content.pop("arms")),
                users=UserCounts(**content.pop("users")),
                inputs=tuple(InputRecord(**file) for file in content.pop("inputs")),
                files=tuple(PublishedFile(**file) for file in content.pop("files")),
                **content,
            )

        return _from_json(data, "manifest", where, build)


def _to_json(document: RunRecord | Receipt | Manifest) -> bytes:
    return (json.dumps(dataclasses.asdict(document), indent=1, ensure_ascii=False, default=str) + "\n").encode()


def _from_json(data: bytes, kind: str, where: str, build: Callable[[dict[str, Any]], Document]) -> Document:
    try:
        return build(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PublicationError(
            f"this is no {kind} of this version of rayrec: {type(error).__name__}: {error}",
            where=where,
            hint="read it with the version of rayrec that wrote it, or move it away",
        ) from error
