"""Posts a small JSON document to a webhook. Failures are logged, without the URL, and never raised."""

from __future__ import annotations

import json
import logging
import os
import threading
import urllib.request
from collections.abc import Mapping
from typing import Any

from rayrec.config.alerts_section import webhook_problem
from rayrec.redaction import shown

_LOG = logging.getLogger(__name__)
_TIMEOUT_S = 5.0  # of each network operation
_LIMIT_S = 8.0  # of the whole call


def post(webhook: str, document: Mapping[str, Any]) -> bool:
    """POST the document to a URL, or to the one in the environment variable NAME of `env:NAME`; whether it arrived.

    Takes at most 8 seconds. Redirects are not followed: they could lead away from https.
    """
    url, outcome = webhook, ["no answer within 8 seconds"]
    if webhook.startswith("env:"):
        url = os.environ.get(webhook.removeprefix("env:"), "")
    if (problem := webhook_problem(url)) is not None:
        outcome = [problem]
    else:
        # A thread of its own, because time-outs of the socket do not bound a server that sends byte by byte.
        thread = threading.Thread(target=_send, args=(url, document, outcome), daemon=True, name="webhook")
        thread.start()
        thread.join(_LIMIT_S)
    if outcome[0]:
        _LOG.warning("alerts.webhook: the alert was not delivered: %s", outcome[0])
    return not outcome[0]


def _send(url: str, document: Mapping[str, Any], outcome: list[str]) -> None:
    try:
        body = json.dumps(document, ensure_ascii=False).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=_TIMEOUT_S):
            outcome[0] = ""
    except Exception as error:  # whatever it is, the run goes on
        outcome[0] = shown(f"{type(error).__name__}: {error}".replace(url, "the URL"))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None
