"""Which URLs may be opened, and that none holds credentials. Errors never repeat the URL."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote

from rayrec.errors import StorageError

SCHEMES = ("file", "local", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")
"""fsspec has many more: archives, caches and chains that open other URLs, web servers, ssh, other people's code."""
_WITH_ACCOUNT = ("az", "abfs", "abfss")  # container@account.dfs.core.windows.net
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?=//|:)")
_NAME = r"[A-Za-z0-9](?:[\w-]|\.(?!\.)){0,95}"
_HUB_ID = re.compile(rf"hf://({_NAME}/{_NAME})@([0-9a-f]{{40}})", re.ASCII)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


class UrlProblem(NamedTuple):
    """Why a URL is not opened, and what to do; neither quotes it."""

    what: str
    hint: str


def url_problem(url: str) -> UrlProblem | None:
    """None if `url` is a path, or a URL of one of SCHEMES without credentials."""
    if _CONTROL.search(url):
        return UrlProblem("a path holds a control character", "write the path without it")
    found = _SCHEME.match(url)
    if "::" in url and (found or "://" in url):
        return UrlProblem("chained URLs (::) are not opened", "give the URL of the files themselves")
    if found is None:
        if "://" in url:
            return UrlProblem("neither a path nor a URL", f"URLs begin with {_known()}")
        return _FILE_URL if re.match(r"file:/", url) else None
    scheme, rest = found[1], url[found.end() + 2 :]
    if scheme not in SCHEMES:
        return UrlProblem(f"URLs of the scheme {scheme[:20]}:// are not opened", f"give a path, or a URL of {_known()}")
    if scheme in ("file", "local"):
        return _FILE_URL if rest and not rest.startswith("/") else None
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    account = scheme in _WITH_ACCOUNT and re.fullmatch(r"[\w-]+@[\w-]+(\.[\w-]+)+", host)
    # A key may hold a question mark. With a name and an equals sign after it, it is a signed URL.
    if (not account and set(host) & set("@:%")) or re.search(r"[?&;][\w.-]+=", unquote(rest)):
        return UrlProblem(
            f"a storage URL ({scheme}://…) must not hold a password, a key or a signature",
            "give credentials through the environment",
        )
    return None


def check_url(url: str, setting: str = "") -> None:
    """Raise StorageError where `url_problem` finds one. `setting`: where the URL comes from."""
    if (problem := url_problem(url)) is not None:
        raise StorageError(problem.what, where=setting, hint=problem.hint)


class HubId(NamedTuple):
    """A repository of the Hugging Face hub at one commit."""

    repository: str  # organisation/name
    revision: str  # 40 hex digits


def hub_id(url: str) -> HubId | None:
    """The repository and revision of `hf://organisation/name@<40 hex digits>`; None for everything else."""
    found = _HUB_ID.fullmatch(url)
    return None if found is None else HubId(found[1], found[2])


def checkpoint_problem(url: str) -> UrlProblem | None:
    """As `url_problem`, for checkpoints, which may also be on a hub at a pinned revision."""
    if not url.startswith("hf://"):
        return url_problem(url)
    if hub_id(url) is not None:
        return None
    return UrlProblem(
        "a checkpoint of a hub needs the commit that is meant: under a branch or a tag its files may change between "
        "two runs",
        "write hf://organisation/name@REVISION, with the 40 hex digits of the commit",
    )


def _known() -> str:
    return ", ".join(f"{scheme}://" for scheme in ("s3", "gs", "az", "abfs", "file"))


_FILE_URL = UrlProblem("a file URL has three slashes (file:///data)", "write the plain path")
