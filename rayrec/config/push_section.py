"""`push`: the Redis that `jobs.push` writes slates into."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, field_validator

from rayrec.config.section import Section

_VARIABLE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*")
_SCHEMES = ("redis", "rediss", "unix")


def redis_url_problem(url: str, *, may_hold_secrets: bool) -> str | None:
    """Why this is no URL of a Redis; None if it is one. Does not quote it."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return "not a URL"
    if parts.scheme not in _SCHEMES or not (parts.hostname or parts.path) or not url.isprintable() or " " in url:
        return "not a URL of a Redis; write redis://host:6379/0, rediss://… (TLS), unix:///path, or env:NAME"
    secret = parts.username or parts.password or {"username", "password"} & parse_qs(parts.query).keys()
    if secret and not may_hold_secrets:
        return "a URL in the config must not hold a user name or password; write env:NAME"
    return None


class Push(Section):
    """Where `jobs.push` writes slates. Not part of a run's fingerprint."""

    url: str = "env:RAYREC_REDIS_URL"
    """URL of the Redis, without user name and password; `env:NAME`: the environment variable that has it, which may
    hold both."""
    prefix: str | None = Field(None, pattern=r"^[A-Za-z0-9_.:-]{1,100}$")
    """How the keys begin; `null`: `rayrec:` and the config's `name`."""
    chunk_users: int = Field(500, ge=1)
    """Slates sent in one pipeline."""
    keep_old_minutes: float = Field(60.0, ge=0)
    """How long the slates of an earlier version stay after the switch, for readers that hold its name."""

    @field_validator("url")
    @classmethod
    def _without_secrets(cls, url: str) -> str:
        if not _VARIABLE.fullmatch(url) and (problem := redis_url_problem(url, may_hold_secrets=False)) is not None:
            raise ValueError(problem)
        return url
