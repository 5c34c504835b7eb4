"""What a path of the config stands for, and which files there are not data but what a writer left behind.

Folders and files whose names begin with `_` or `.` are not data (`_temporary`, `_delta_log`, `_SUCCESS`), except
partition folders (`_day=2026-01-31`) and what the path names itself. Nor are copies in progress and checksums.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import PurePosixPath
from urllib.parse import unquote

from fsspec.utils import glob_translate

_GLOB = "*?["
_NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"
# Copies in progress, checksums, editors' copies, Hadoop's folder markers, Athena's descriptions of results.
_LEFTOVER_FILE = re.compile(
    r"(?i)(\.(tmp|temp|inprogress|pending|partial|crdownload|swp|bak|crc|md5|sha1|sha256|sha512|asc|sig|metadata)"
    r"|~|\._copying_|_\$folder\$)$"
)
_LEFTOVER_FOLDERS = ("+tmp", "lost+found")  # the first is Kafka Connect's


@dataclass(frozen=True)
class SourcePath:
    """A file, folder or glob of the config, relative to a root; a folder stands for all files below it."""

    path: str

    @property
    def folder(self) -> str:
        """What to list: the path up to its first glob."""
        return "/".join(self._named)

    def matches(self, file: str) -> bool:
        """Whether the path stands for this file."""
        if self._patterns:
            return self._glob.match(file) is not None
        return not self._named or file == self.folder or file.startswith(f"{self.folder}/")

    def names(self, file: str) -> bool:
        """Whether the path is this very file, so that a person chose it."""
        return not self._patterns and file == self.folder

    def is_leftover(self, file: str) -> bool:
        """Whether a file that the path stands for is not data, by its name or a folder's that the path does not
        name."""
        *folders, name = PurePosixPath(file).parts[len(self._named) :] or (None,)
        if name is None:  # the path names the file
            return False
        marked = [part for part in folders if part[0] == "." or (part[0] == "_" and "=" not in part)]
        marked += [name] if name[0] in "._" else []
        if any(not self._is_wanted(part) for part in marked):
            return True
        return _LEFTOVER_FILE.search(name) is not None or any(part in _LEFTOVER_FOLDERS for part in folders)

    def _is_wanted(self, part: str) -> bool:
        """Whether a pattern of the path begins with the same mark, as in `_export*/*.csv`."""
        return any(each[0] == part[0] and fnmatchcase(part, each) for each in self._patterns)

    @property
    def _parts(self) -> tuple[str, ...]:
        return PurePosixPath(self.path).parts

    @property
    def _named(self) -> Sequence[str]:
        first = next((at for at, part in enumerate(self._parts) if set(part) & set(_GLOB)), len(self._parts))
        return self._parts[:first]

    @property
    def _patterns(self) -> Sequence[str]:
        return self._parts[len(self._named) :]

    @cached_property
    def _glob(self) -> re.Pattern[str]:
        return re.compile(glob_translate("/".join(self._parts)))


def partition_columns(path: str) -> dict[str, str | None]:
    """The partition columns in a path's folder names, such as dt=2011-08-31/country=GB/part.csv."""
    pairs = (part.split("=", 1) for part in PurePosixPath(path).parts[:-1] if "=" in part)
    return {key: None if value == _NO_PARTITION else unquote(value) for key, value in pairs}
