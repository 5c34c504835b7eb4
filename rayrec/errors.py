"""The errors that rayrec shows to its users."""

from __future__ import annotations

from rayrec.redaction import shown


class RayrecError(Exception):
    """An error that the user can correct: what is wrong, where, and what to do; without secrets and escape sequences.

    Jobs print it without a traceback and exit with `exit_code`.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = shown(what), shown(where), shown(hint)
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.hint:
            lines.append(f"  to do: {self.hint}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # For Ray's process boundaries: the pickling of Exception would lose the keywords.
        return (_rebuild, (type(self), self.what, self.where, self.hint))


def _rebuild(kind: type[RayrecError], what: str, where: str, hint: str) -> RayrecError:
    return kind(what, where=where, hint=hint)


class ConfigError(RayrecError):
    """The configuration cannot be used as written."""


class DataError(RayrecError):
    """The input data cannot be used: missing, unreadable, or not as the config describes it."""


class NoInteractionsError(DataError):
    """The window has no interactions, of anybody who is not erased."""


class QuarantineError(RayrecError):
    """More rows broke their contract than the config allows; nothing is published."""

    exit_code = 3


class PublicationError(RayrecError):
    """The date cannot be published: another run has published it, or its receipts do not fit together."""

    exit_code = 4


class GuardrailError(PublicationError):
    """A guardrail with `action: block` does not hold; nothing is published."""


class StorageError(RayrecError):
    """Files cannot be read or written: rights, credentials, network, or a missing feature of the store."""


class MissingFileError(StorageError):
    """The file does not exist."""


class TransientStorageError(StorageError):
    """The store failed, repeatedly, in a way that passes: network, time-outs, an overloaded store. Worth a retry."""


def user_error(error: BaseException) -> RayrecError | None:
    """The RayrecError that `error` is or wraps: Ray wraps what a task raised in its own errors."""
    inner: BaseException | None = error
    while inner is not None:
        cause = getattr(inner, "cause", None)  # ray.exceptions.RayTaskError holds the task's error here
        if isinstance(cause, BaseException):
            inner = cause
        elif isinstance(inner, RayrecError):
            return inner
        else:
            inner = inner.__cause__ if type(inner).__module__.startswith("ray.") else None
    return None
