"""The one error a user of rayrec is meant to read."""

from __future__ import annotations


class RayrecError(Exception):
    """Something the user can put right: what is wrong, where, and what to do.

    Jobs print it without a traceback and exit with `exit_code`.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.hint:
            lines.append(f"  to do: {self.hint}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Crosses Ray's process boundaries whole; Exception's own pickling would lose the keywords.
        return (_rebuild, (type(self), self.what, self.where, self.hint))


def _rebuild(kind: type[RayrecError], what: str, where: str, hint: str) -> RayrecError:
    return kind(what, where=where, hint=hint)


class ConfigError(RayrecError):
    """The configuration cannot be used as written."""


class DataError(RayrecError):
    """The input data cannot be used: missing, unreadable, or not as the config describes it."""


class QuarantineError(RayrecError):
    """More rows broke the contract than `data.max_quarantine_share` allows; nothing is published."""

    exit_code = 3


class PublicationError(RayrecError):
    """The day cannot be published: another run holds it, or its receipts do not fit together."""

    exit_code = 4


class StorageError(RayrecError):
    """Files cannot be read or written: rights, credentials, network, or a store that lacks what publishing needs."""


class MissingFileError(StorageError):
    """The file is not there."""
