"""Keeps the status of a daily run, and posts alerts (`alerts.webhook`) when it fails or a guardrail does not hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rayrec.errors import GuardrailError, RayrecError, user_error
from rayrec.monitoring import webhook
from rayrec.monitoring.run_status import RunStatus, State
from rayrec.pipeline.run_context import RunContext
from rayrec.ray_support import stop_signals


@contextmanager
def watched(context: RunContext) -> Iterator[RunStatus]:
    """The status of the run in the block; what ends the block is reported and raised again."""
    status = RunStatus(context.storage, context.date)
    try:
        yield status
    except BaseException as error:
        state, code, words = how_it_ended(error)
        status.end(state, code, words)
        if state != "stopped":
            alert(context, status)
        raise
    status.end("published", 0)
    if status.document.warnings:
        alert(context, status)


def how_it_ended(error: BaseException) -> tuple[State, int, str]:
    """State, exit code of the job, and words of a run that `error` ended."""
    if (signal := stop_signals.received()) is not None:
        return "stopped", stop_signals.exit_code(signal), f"stopped by {signal.name}"
    if isinstance(error, KeyboardInterrupt):
        return "stopped", 130, "stopped"
    known: RayrecError | None = user_error(error)
    if known is None:
        return "failed", 1, f"{type(error).__name__}: {error}"
    return "blocked" if isinstance(known, GuardrailError) else "failed", known.exit_code, known.what


def alert(context: RunContext, status: RunStatus) -> None:
    """Post how the run ended to the webhook, if there is one."""
    if (url := context.config.alerts.webhook) is not None:
        webhook.post(url, alert_document(context, status))


def alert_document(context: RunContext, status: RunStatus) -> dict[str, Any]:
    """What the webhook receives. `text` is one sentence, which chat programs show as it is."""
    ended = status.document
    words = ended.error or "; ".join(ended.warnings)
    state = "warning" if ended.state == "published" and ended.warnings else ended.state
    return {
        "run": context.config.name,
        "date": context.dt,
        "run_id": ended.run_id,
        "state": state,
        "stage": ended.stage,
        "exit_code": ended.exit_code,
        "error": words,
        "text": f"rayrec {context.config.name} {context.dt}: {state} (exit {ended.exit_code}): {words}",
    }
