"""Log lines as JSON: fields, progress, secrets, and the return to text."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from rayrec.monitoring import json_log
from rayrec.monitoring.progress import Progress


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    written = io.StringIO()
    handler = json_log.start(written)
    yield written
    json_log.stop(handler)
    assert not json_log.active()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_warning_is_one_line_whatever_it_holds(stream: io.StringIO) -> None:
    logging.getLogger("rayrec.somewhere").warning("two\nlines, %s", "ü \x1b[31mred")
    (said,) = lines(stream)
    assert (said["level"], said["logger"]) == ("warning", "rayrec.somewhere")
    assert said["message"] == "two\nlines, ü red"


def test_progress_has_numbers(stream: io.StringIO) -> None:
    with Progress("score", 40, clock=lambda: 2.0) as progress:
        progress.advance(40)
    (said,) = lines(stream)
    assert (said["stage"], said["done"], said["total"], said["unit"], said["seconds"]) == (
        "score",
        40,
        40,
        "users",
        0.0,
    )
    assert said["message"].startswith("40 / 40 users  done")


def test_secrets_are_hidden_in_messages_and_tracebacks(stream: io.StringIO) -> None:
    try:
        raise ValueError("https://host/?X-Amz-Signature=abcdef0123")
    except ValueError:
        logging.getLogger("x").exception("password=hunter22222")
    (said,) = lines(stream)
    assert "ValueError" in said["traceback"]
    assert "abcdef0123" not in stream.getvalue()
    assert "hunter22222" not in stream.getvalue()
