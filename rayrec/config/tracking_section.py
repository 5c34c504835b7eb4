"""`tracking`: where `jobs.evaluate` logs a run's settings and metrics."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from rayrec.config.section import Section

_VARIABLE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*")


class MLflowTracking(Section):
    """An MLflow tracking server. Needs `pip install 'rayrec[mlflow]'`. Credentials come from MLflow's own environment
    variables (MLFLOW_TRACKING_TOKEN, or _USERNAME and _PASSWORD)."""

    url: str = "env:MLFLOW_TRACKING_URI"
    """URL of the server, without user name and password; `env:NAME`: the environment variable that has it."""
    experiment: str | None = Field(None, min_length=1)
    """Name of the experiment; `null`: the config's `name`."""

    @field_validator("url")
    @classmethod
    def _without_secrets(cls, url: str) -> str:
        if not _VARIABLE.fullmatch(url):
            try:
                parts = urlsplit(url)
                secret = parts.username or parts.password
            except ValueError:
                raise ValueError("not a URL") from None
            if secret:
                raise ValueError("a URL in the config must not hold a user name or password; write env:NAME")
        return url


class Tracking(Section):
    """Where `jobs.evaluate` logs what it found. Not part of a run's fingerprint."""

    mlflow: MLflowTracking | None = None
    """An MLflow server; `{}`: the one in the environment; `null`: none."""
