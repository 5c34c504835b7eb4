"""`alerts`: where a job reports failures and guardrails that do not hold."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from rayrec.config.section import Section

_LOCAL = ("localhost", "127.0.0.1", "::1")
_VARIABLE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*")


def webhook_problem(url: str) -> str | None:
    """Why nothing is posted to this URL; None if it may be. Does not quote it: such URLs often hold a token."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return "not a URL"
    if not host or not url.isprintable() or " " in url:
        return "not a URL; write https://host/path, or env:NAME for an environment variable that has it"
    if parts.username or parts.password:
        return "a webhook URL must not hold a user name or password"
    if parts.scheme != "https" and not (parts.scheme == "http" and host in _LOCAL):
        return "a webhook is called over https (http only on localhost)"
    return None


class Alerts(Section):
    """Where `jobs.daily` reports that a run failed or was blocked, or that a guardrail does not hold. It never ends a
    run. Not part of a run's fingerprint."""

    webhook: str | None = Field(None)
    """URL (https; http only on localhost) that receives a small JSON document by POST; `env:NAME`: the environment
    variable that has it, for URLs with a token; `null`: none."""

    @field_validator("webhook")
    @classmethod
    def _safe(cls, url: str | None) -> str | None:
        if url is not None and not _VARIABLE.fullmatch(url) and (problem := webhook_problem(url)) is not None:
            raise ValueError(problem)
        return url
