"""A job on a remote cluster, through Ray's job API: submitted, followed through outages, with its own exit code.

    job = RemoteJob("http://127.0.0.1:8265")
    job.submit("python -m jobs.daily …", working_dir=".")
    code = job.follow()

`ray job submit` ends with its connection: a log stream that is lost ends it with 0 while the job still runs
(https://github.com/ray-project/ray/issues/60665), and a job that failed is 1, whatever its exit code. Here the log and
the state are polled, so that there is no stream to lose, and the code is what the job API reports of the driver.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from rayrec.errors import RayrecError
from rayrec.ray_support.capacity import ClusterError

STOPPED_EXIT = 143  # as of a job that SIGTERM ended
_POLL_S = 3.0
_LOG_BYTES_PER_S = 100_000  # the API gives a log as a whole; a long one is asked for less often
_LONGEST_PAUSE_S = 30.0
_CONNECT_S, _ANSWER_S = 10.0, 120.0
_LAST_LOG_ATTEMPTS = 5
_ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
_T = TypeVar("_T")


class LostJobError(RayrecError):
    """How the job ended is not known: the job API stayed away, or no longer knows the job."""

    exit_code = 5


class _RefusedError(Exception):
    """The job API answered that it does not do it."""


class _Outage(Exception):
    """No answer, or one that says to come back later."""


class _Client(JobSubmissionClient):  # type: ignore[misc]
    """Ray's client with a limit for every request; its own waits for ever on a connection that hangs."""

    def _do_request(self, method: str, endpoint: str, **kwargs: Any) -> Any:
        return super()._do_request(method, endpoint, **{"timeout": (_CONNECT_S, _ANSWER_S), **kwargs})


class RemoteJob:
    """One job. After an error that passes, a call is repeated until nothing has answered for `patience_s`."""

    def __init__(
        self,
        address: str,
        submission_id: str | None = None,
        *,
        patience_s: float = 1800.0,
        show: Callable[[str], object] = sys.stdout.write,
        say: Callable[[str], object] = lambda words: print(words, file=sys.stderr, flush=True),
        pause: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`show` gets the job's log, `say` what happens to the connection."""
        if not re.match(r"https?://[^/]", address):
            raise ClusterError(
                "this is no address of a job API", where=f"--address {address}", hint="give http://HOST:8265"
            )
        self.address, self.submission_id = address.rstrip("/"), submission_id or f"rayrec-{secrets.token_hex(6)}"
        self._patience_s, self._show, self._say, self._pause, self._clock = patience_s, show, say, pause, clock
        self._client: _Client | None = None
        self._shown = 0

    def submit(self, entrypoint: str, working_dir: str | None = ".") -> None:
        """Submit the command. A job of this id and command that runs or has succeeded is taken up instead; after one
        that failed, the id gets a number.

        Raises ClusterError where the API refuses it, LostJobError where it does not answer.
        """
        if working_dir is not None and not Path(working_dir).is_dir():
            where = f"--working-dir {working_dir}"
            raise ClusterError("there is no such folder", where=where, hint="give the folder with the code, or none")
        environment = {} if working_dir is None else {"working_dir": working_dir}
        first = self.submission_id
        for number in range(1, 1000):
            self.submission_id = first if number == 1 else f"{first}-{number}"
            try:
                self._call(
                    lambda client: client.submit_job(
                        entrypoint=entrypoint, submission_id=self.submission_id, runtime_env=environment
                    )
                )
            except _RefusedError as refused:
                if "already exists" not in str(refused):
                    what, hint = f"the cluster refuses the job: {refused}", "correct what it names, and submit again"
                    raise ClusterError(what, where=self.address, hint=hint) from None
                found = self._details()
                if found.entrypoint != entrypoint:
                    raise ClusterError(
                        f"another command has this id: {found.entrypoint}",
                        where=f"--submission-id {self.submission_id}",
                        hint="give another id, or none",
                    ) from None
                if found.status in (JobStatus.FAILED, JobStatus.STOPPED):
                    continue
                self._say(f"submit: {self.submission_id} is there already ({found.status}); following it")
            return

    def follow(self) -> int:
        """Show the job's log until the job ends; its exit code (128 + n where signal n ended it).

        Raises LostJobError, and ClusterError for a refused token.
        """
        while True:
            try:
                found = self._details()
            except _RefusedError as refused:
                raise LostJobError(
                    f"the cluster does not know the job {self.submission_id}: {refused}",
                    where=self.address,
                    hint="its head was restarted, for example; submit it again: it resumes",
                ) from None
            if found.status.is_terminal():
                self._show_last_log()
                return self._exit_code(found)
            self._show_log()
            self._pause(min(_LONGEST_PAUSE_S, max(_POLL_S, self._shown / _LOG_BYTES_PER_S)))

    def _exit_code(self, found: JobDetails) -> int:
        code: int | None = found.driver_exit_code
        self._say(f"submit: {self.submission_id} {found.status}, exit code {'unknown' if code is None else code}")
        if code is not None:
            return code if code >= 0 else 128 - code
        if found.status == JobStatus.SUCCEEDED:
            return 0
        if found.status == JobStatus.STOPPED:
            return STOPPED_EXIT
        self._say(f"submit: the job failed outside of its command: {found.message or 'no message'}")
        return 1

    def _details(self) -> JobDetails:
        return self._call(lambda client: client.get_job_info(self.submission_id))

    def _show_log(self) -> bool:
        """Show what the log has besides what was shown; False where it cannot be read now."""
        try:
            text = self._answer(lambda client: client.get_job_logs(self.submission_id))
        except (_RefusedError, _Outage):
            return False
        if len(text) < self._shown:
            self._say("submit: the log is shorter than before; what follows is all of it")
            self._shown = 0
        self._show(text[self._shown :])
        self._shown = len(text)
        return True

    def _show_last_log(self) -> None:
        for _ in range(_LAST_LOG_ATTEMPTS):
            if self._show_log():
                return
            self._pause(_POLL_S)
        self._say("submit: the end of the job's log cannot be read")

    def _call(self, action: Callable[[_Client], _T]) -> _T:
        """The API's answer, after any number of outages shorter than the patience."""
        lost_at: float | None = None
        while True:
            try:
                answer = self._answer(action)
            except _Outage as outage:
                now = self._clock()
                if lost_at is None:
                    lost_at = now
                    self._say(
                        f"submit: the job API does not answer ({outage}); trying again for "
                        f"{self._patience_s / 60:.0f} minutes. A job that runs is not affected"
                    )
                if now - lost_at >= self._patience_s:
                    raise LostJobError(
                        f"the job API has not answered for {self._patience_s / 60:.0f} minutes: {outage}",
                        where=self.address,
                        hint=f"the job {self.submission_id} may still run. Once the API answers, give the same command "
                        f"with --submission-id {self.submission_id} to follow it",
                    ) from None
                self._pause(_POLL_S)
            else:
                if lost_at is not None:
                    self._say(f"submit: the job API answers again, after {self._clock() - lost_at:.0f} s")
                return answer

    def _answer(self, action: Callable[[_Client], _T]) -> _T:
        """One attempt. Raises _Outage for what may pass, _RefusedError for an answer that is an error."""
        try:
            if self._client is None:
                with _explicit(self.address):
                    self._client = _Client(self.address)
            return action(self._client)
        except AuthenticationError as error:
            raise ClusterError(
                "the Ray cluster refuses the token",
                where=self.address,
                hint="set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token",
            ) from error
        except (requests.RequestException, ConnectionError, TimeoutError) as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status is not None and not _passes(status):
                raise _RefusedError(str(error)) from error
            raise _Outage(str(error) or type(error).__name__) from error
        except RuntimeError as error:  # the client's way to report a status; the answer itself follows
            found = re.findall(r"failed with status code (\d+)", str(error))
            if not found:
                hint = "check --address, the tunnel to the head and RAY_AUTH_TOKEN"
                raise ClusterError(str(error), where=self.address, hint=hint) from error
            if _passes(int(found[-1])):  # the head passes a node's refusal on as a 500 that quotes it
                raise _Outage(str(error).strip().splitlines()[0]) from error
            raise _RefusedError(str(error)) from error
        except ValueError as error:  # of the client: an upload that is too large, say
            what, hint = f"the job cannot be submitted: {error}", "leave large files out of --working-dir (.rayignore)"
            raise ClusterError(what, where=self.address, hint=hint) from error


def _passes(status: int) -> bool:
    return status >= 500 or status in (408, 425, 429)


@contextmanager
def _explicit(address: str) -> Iterator[None]:
    """Ray lets two environment variables override the address that a client is given; the address wins here."""
    before = os.environ.get(_ADDRESS_VARIABLE)
    os.environ[_ADDRESS_VARIABLE] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[_ADDRESS_VARIABLE]
        else:
            os.environ[_ADDRESS_VARIABLE] = before
