"""Shared fixtures. Ray's token authentication is set before Ray starts: unset, Ray writes a token file at home."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest
from hypothesis import settings

pytest_plugins = ["s3_server"]  # beside this file

os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

settings.register_profile("rayrec", deadline=None)  # no test fails for a slow machine
settings.load_profile("rayrec")


@pytest.fixture(scope="session")
def local_ray(s3_server: str) -> Iterator[None]:
    """A real local Ray cluster of two CPUs for the whole test session; its workers can reach the S3 server."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
