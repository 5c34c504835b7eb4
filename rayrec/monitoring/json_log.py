"""Log lines as JSON, one object a line on stderr: `time`, `level`, `logger`, `message`, and the fields of the record.

Jobs write them with `--log-format json`. Secrets and control characters are hidden as in text.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import TextIO

from rayrec.publishing.records import utc_now
from rayrec.redaction import shown

_FIELDS = "rayrec_fields"
_LOG = logging.getLogger(__name__)


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": utc_now(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": shown(record.getMessage()),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info:
            fields["traceback"] = shown(self.formatException(record.exc_info))
        return json.dumps(fields, ensure_ascii=False, default=str)


def start(stream: TextIO | None = None) -> logging.Handler:
    """Write all log records of this process as JSON, from now on. `stream`: stderr by default."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.getLogger().addHandler(handler)
    _LOG.setLevel(logging.INFO)
    return handler


def stop(handler: logging.Handler) -> None:
    """Write text again."""
    logging.getLogger().removeHandler(handler)
    _LOG.setLevel(logging.NOTSET)


def active() -> bool:
    """Whether this process writes its log as JSON."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)


def say(message: str, level: int = logging.INFO, **fields: object) -> None:
    """Write one line with fields of its own."""
    _LOG.log(level, "%s", message, extra={_FIELDS: fields})
