"""The status of a run, in `status.json` beside its artifacts: stage, shards, users/s, remaining time, and how it ended.

A thread writes it every five seconds. A store that fails or is slow delays neither the run nor its end. A status
`running` that is older than a minute belongs to a run that was killed.
"""

from __future__ import annotations

import datetime
import json
import logging
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Literal, Protocol

from rayrec.errors import MissingFileError
from rayrec.publishing.records import utc_now
from rayrec.redaction import shown
from rayrec.storage import FileInfo, layout

State = Literal["running", "published", "failed", "blocked", "stopped"]

_LOG = logging.getLogger(__name__)
_EVERY_S = 5.0
_END_S = 3.0  # for the last write; a job that was told to stop has 10 s in all
_LISTEN_S = 15.0  # a run that goes on writes three times
_MAY_LIVE_S = 600.0  # by this machine's clock
_MOST_WORDS = 500  # characters of an error
_COUNTS = ("shards_done", "users_scored")  # that change users/s


class _Reads(Protocol):
    def list(self, prefix: str = "") -> list[FileInfo]: ...

    def read(self, path: str) -> bytes: ...


class _Writes(Protocol):
    def write(self, path: str, data: bytes) -> None: ...


@dataclass(frozen=True)
class StatusDocument:
    """What `status.json` holds. `null`: not known (yet)."""

    date: datetime.date
    run_id: str = ""
    state: State = "running"
    stage: str = ""
    shards_done: int = 0
    shards: int = 0
    users_done: int = 0  # of the stage `score`, in committed shards
    users_scored: int = 0  # by LLMs in this attempt, in shards in work too
    users: int = 0
    users_per_s: float | None = None
    eta_s: float | None = None  # of the stage
    started_at: str = ""  # UTC
    updated_at: str = ""
    exit_code: int | None = None  # set at the end
    error: str = ""  # first line of the error, without secrets
    warnings: tuple[str, ...] = ()  # guardrails that do not hold

    def to_json(self) -> bytes:
        return (json.dumps(asdict(self), ensure_ascii=False, indent=1, default=str) + "\n").encode()


def live_runs(
    storage: _Reads, *, listen_s: float = _LISTEN_S, sleep: Callable[[float], None] = time.sleep
) -> list[str]:
    """The status files of runs that go on: those that are written while this listens.

    Returns at once where no status of the last minutes says `running`. Clocks of two machines are not compared closer.
    """
    before = _running(storage)
    for _ in range(math.ceil(listen_s) if before else 0):
        sleep(1.0)
        now = _running(storage)
        if alive := sorted(path for path, at in now.items() if before.get(path) != at):
            return alive
    return []


def _running(storage: _Reads) -> dict[str, str]:
    """status.json -> when it was written, of runs that may go on."""
    oldest = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=_MAY_LIVE_S)
    found: dict[str, str] = {}
    for info in storage.list(layout.RUNS):
        if layout.is_run_status(info.path):
            with suppress(ValueError, KeyError, MissingFileError):
                document = json.loads(storage.read(info.path))
                written = datetime.datetime.fromisoformat(document["updated_at"])
                if document["state"] == "running" and written > oldest:
                    found[info.path] = document["updated_at"]
    return found


class RunStatus:
    """The status of one run; written from `begin` to `end`. One thread, the driver's, calls it; but for `reached`."""

    def __init__(self, storage: _Writes, date: datetime.date, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds, for tests."""
        self._storage, self._clock = storage, clock
        self._document = StatusDocument(date)  # replaced as a whole, so that the writer never sees half a change
        self._score_began, self._already_done = clock(), 0
        self._ended, self._failed, self._lock = threading.Event(), False, threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def document(self) -> StatusDocument:
        return self._document

    def begin(self, run_id: str, shards: int) -> None:
        """Start writing."""
        self._set(run_id=run_id, shards=shards, started_at=utc_now())
        self._thread = threading.Thread(target=self._keep_writing, daemon=True, name="run-status")
        self._thread.start()

    def enter(self, stage: str) -> None:
        self._set(stage=stage, users_per_s=None, eta_s=None)

    def score(self, users: int, users_done: int, shards_done: int) -> None:
        """The stage `score` begins, with what an earlier attempt has done."""
        self._score_began, self._already_done = self._clock(), users_done
        self._document = replace(self._document, users=users, users_done=users_done, shards_done=shards_done)

    def shard_done(self, users: int) -> None:
        """A shard with so many users is committed."""
        self._set(users_done=self._document.users_done + users, shards_done=self._document.shards_done + 1)

    def reached(self, users: int) -> None:
        """So many users were scored in this attempt, in shards in work too."""
        self._set(users_scored=users)

    def warn(self, warnings: list[str]) -> None:
        self._set(warnings=tuple(warnings))

    def end(self, state: State, exit_code: int, error: str = "") -> None:
        """Write how the run ended, within a few seconds or not at all."""
        line = shown(error).strip().partition("\n")[0][:_MOST_WORDS]
        self._set(state=state, exit_code=exit_code, error=line, eta_s=None)
        self._ended.set()
        if self._thread is not None:
            self._thread.join(_END_S)

    def _set(self, **changes: object) -> None:
        with self._lock:
            self._document = replace(self._document, **changes)  # type: ignore[arg-type]
            if not changes.keys().isdisjoint(_COUNTS):
                rate, left = self._speed()
                self._document = replace(self._document, users_per_s=rate, eta_s=left)

    def _speed(self) -> tuple[float, float | None]:
        """Rate and remaining time of the stage `score`, by what this attempt has committed or scored."""
        document = self._document
        done = max(document.users_done - self._already_done, document.users_scored)
        rate = done / max(self._clock() - self._score_began, 1e-9)
        left = (document.users - self._already_done - done) / rate if rate else None
        return round(rate, 1), None if left is None else round(max(left, 0.0), 1)

    def _keep_writing(self) -> None:
        self._write()
        while not self._ended.wait(_EVERY_S):
            self._write()
        self._write()

    def _write(self) -> None:
        document = replace(self._document, updated_at=utc_now())
        try:
            self._storage.write(layout.run_status_path(document.date, document.run_id), document.to_json())
        except Exception as error:  # the run goes on without
            if not self._failed:
                _LOG.warning("status.json cannot be written: %s", shown(error))
            self._failed = True
