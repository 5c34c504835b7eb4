"""Text that is safe to show: without secrets, and without characters that a terminal obeys.

Error messages quote files, URLs and the messages of clients (fsspec, botocore, pyarrow), so any of them may hold the
credentials of a URL, a signed query, rows of users, or terminal escape sequences that somebody planted in a file name.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterable

HIDDEN = "***"
_SHORTEST_SECRET = 8  # characters of a variable's value; shorter ones occur in ordinary words
_LONGEST_TEXT = 100_000  # characters

# CSI and OSC sequences go as a whole; other control characters become visible ones.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f]).*?(?:\x07|\x1b\\|\x9c|$)"
)
# Control characters except tab and line feed, and those that reorder or hide text.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")

_SECRET_NAME = (
    r"[\w.-]*(?:secret|passw(?:or)?d|passwd|pwd|token|api[_-]?key|access[_-]?key(?:[_-]?id)?|account[_-]?key|sas"
    r"|private[_-]?key|credentials?|authorization|connection[_-]?string|signature)"
)
_SECRETS = (
    (re.compile(r"(\w[\w+.-]*://)[^\s/@'\"]*:[^\s@'\"]*@"), rf"\1{HIDDEN}@"),
    (re.compile(r"(\w[\w+.-]*://)[^\s/@'\".]+@(?![\w-]+\.dfs\.)"), rf"\1{HIDDEN}@"),
    (re.compile(r"([?&;](?:sig|se|sp|sr|sv|st|skoid|x-amz-[\w-]+|x-goog-[\w-]+|awsaccesskeyid|expires|policy|key-pair-id"
                rf"|key|code|{_SECRET_NAME})=)[^\s&;'\"<>)]+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(rf"\b({_SECRET_NAME}[\"']?\s*[=:]\s*)(?!\s|None\b|null\b)(?:Bearer\s+|Basic\s+|AWS4-\S+\s+)?[\"']?"
                r"[^\s\"',;&)}\]]+", re.IGNORECASE), rf"\1{HIDDEN}"),
    (re.compile(r"\b(Bearer|Basic)\s+[\w+/=.~-]{8,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"\b(?:AKIA|ASIA|AROA|AIDA)[0-9A-Z]{16}\b"), HIDDEN),
    (re.compile(r"\b(?:hf_|ghp_|gho_|github_pat_|glpat-|xox[abp]-|sk-)[\w-]{16,}"), HIDDEN),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"), HIDDEN),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), HIDDEN),
)  # fmt: skip
_SECRET_VARIABLE = re.compile(r"SECRET|PASSWORD|PASSWD|TOKEN|API_?KEY|ACCESS_?KEY|ACCOUNT_?KEY|SAS|CONNECTION_STRING")
_NO_SECRET = re.compile(r"_(PATH|FILE|DIR|MODE|URI|URL|TTL|LIMIT|TIMEOUT)$")

# Where Arrow and Python quote the row or the value that they could not read.
_QUOTED_ROWS = (
    (re.compile(r"(Expected \d+ columns, got \d+): .*", re.DOTALL), r"\1"),
    (re.compile(r"(CSV conversion error to [^:]+: invalid value) '.*?'", re.DOTALL), r"\1"),
    (re.compile(r"(Failed to parse string): '.*?'( as a scalar)", re.DOTALL), r"\1\2"),
    (re.compile(r"(Could not convert) .*?( with type)", re.DOTALL), r"\1 a value\2"),
)


def shown(text: object) -> str:
    """The text without secrets, quoted rows and control characters; line feeds and tabs stay."""
    plain = str(text)
    if len(plain) > _LONGEST_TEXT:
        plain = f"{plain[:_LONGEST_TEXT]} ... ({len(plain):,} characters)"
    for value in _values_of(os.environ.items()):
        plain = plain.replace(value, HIDDEN)
    for pattern, safe in (*_SECRETS, *_QUOTED_ROWS):
        plain = pattern.sub(safe, plain)
    return printable(plain)


def printable(text: str) -> str:
    """The text without escape sequences; other control characters, and those that reorder text, as U+FFFD."""
    return _CONTROL.sub("\ufffd", _ESCAPES.sub("", text))


def shown_traceback(error: BaseException) -> str:
    """The traceback of an exception, as `shown`."""
    return shown("".join(traceback.format_exception(error)).rstrip())


def _values_of(variables: Iterable[tuple[str, str]]) -> list[str]:
    """Values of environment variables that are secrets by their names, longest first."""
    found = {
        value
        for name, value in variables
        if len(value) >= _SHORTEST_SECRET and _SECRET_VARIABLE.search(name.upper()) and not _NO_SECRET.search(name)
    }
    return sorted(found, key=len, reverse=True)
