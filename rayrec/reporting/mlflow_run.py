"""Logs the evaluation of a published date as an MLflow run: settings, metrics, and the report without users.

One MLflow run a date, publication and horizon: a second evaluation updates it. Metrics are named
`SYSTEM/ndcg_at_10`, with `_low` and `_high` for the interval, and `ARM vs BASELINE/ndcg_at_10` for differences.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayrec.config.tracking_section import MLflowTracking
from rayrec.errors import ConfigError, StorageError
from rayrec.evaluation.comparison import ALL_USERS
from rayrec.evaluation.evaluation_job import EvaluationResult
from rayrec.numerics.hashing import digest
from rayrec.publishing.records import Manifest
from rayrec.redaction import shown
from rayrec.reporting.html_report import render
from rayrec.reporting.report_data import ReportData

_KEY = "rayrec.key"  # the tag by which a run is found again
_MOST_PARAMS, _MOST_METRICS = 100, 1000  # in one request: MLflow's limits
_LONGEST_PARAM = 500  # characters, the limit of older servers
_NOT_IN_NAMES = re.compile(r"[^\w\-. :/]")
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # the URL may hold a password
}


def log_evaluation(
    tracking: MLflowTracking, name: str, manifest: Manifest, result: EvaluationResult, report: ReportData | None
) -> str:
    """Log it and return the ID of the MLflow run. `name`: of the config.

    Raises ConfigError without the package or a URL, StorageError if the server fails.
    """
    url = tracking.url
    if url.startswith("env:"):
        variable = url.removeprefix("env:")
        if not (url := os.environ.get(variable, "")):
            hint = "set it to the URL of the MLflow server, or set tracking.mlflow.url"
            raise ConfigError(f"the environment variable {variable} is not set", where="tracking.mlflow.url", hint=hint)
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    try:
        from mlflow.tracking import MlflowClient
    except ImportError:
        hint = "pip install 'rayrec[mlflow]'"
        raise ConfigError("the package `mlflow-skinny` is not installed", where="tracking.mlflow", hint=hint) from None
    try:
        return _log(MlflowClient(tracking_uri=url), tracking.experiment or name, name, manifest, result, report)
    except Exception as error:  # of the client: HTTP, its own
        raise StorageError(
            f"the evaluation is written, but MLflow failed: {shown(f'{type(error).__name__}: {error}')}",
            where="tracking.mlflow",
            hint="check the server, the URL and the credentials; the same command logs the evaluation again",
        ) from None


def _log(
    client: Any, experiment: str, name: str, manifest: Manifest, result: EvaluationResult, report: ReportData | None
) -> str:
    from mlflow.entities import Metric, Param, RunTag

    run_id = _run(client, experiment, name, manifest, result)
    now = time.time_ns() // 1_000_000
    params = [Param(key, value) for key, value in parameters(manifest.fingerprinted_settings).items()]
    values = [Metric(key, value, now, 0) for key, value in metrics(json.loads(result.to_json())).items()]
    tags = [RunTag(key, value) for key, value in _tags(manifest, result).items()]
    client.log_batch(run_id, tags=tags)
    for start in range(0, len(params), _MOST_PARAMS):
        client.log_batch(run_id, params=params[start : start + _MOST_PARAMS])
    for start in range(0, len(values), _MOST_METRICS):
        client.log_batch(run_id, metrics=values[start : start + _MOST_METRICS])
    with tempfile.TemporaryDirectory(prefix="rayrec-") as folder:
        files = {"metrics.json": result.to_json()}
        if report is not None:
            files["report.html"] = render(report.without_users()).encode()
        for file, content in files.items():
            path = Path(folder) / file
            path.write_bytes(content)
            client.log_artifact(run_id, str(path))
    client.set_terminated(run_id)
    return run_id


def _run(client: Any, experiment: str, name: str, manifest: Manifest, result: EvaluationResult) -> str:
    """The ID of this evaluation's MLflow run, new if there is none."""
    found = client.get_experiment_by_name(experiment)
    experiment_id = client.create_experiment(experiment) if found is None else found.experiment_id
    key = digest([name, result.date.isoformat(), manifest.run_id, result.horizon_days])
    runs = client.search_runs([experiment_id], filter_string=f"tags.`{_KEY}` = '{key}'", max_results=1)
    if runs:
        return str(runs[0].info.run_id)
    return str(client.create_run(experiment_id, run_name=f"{name} {result.date}", tags={_KEY: key}).info.run_id)


def _tags(manifest: Manifest, result: EvaluationResult) -> dict[str, str]:
    tags = {
        "rayrec.date": result.date.isoformat(),
        "rayrec.run_id": manifest.run_id,
        "rayrec.fingerprint": manifest.fingerprint,
        "rayrec.code_version": manifest.code_version,
        "rayrec.evaluated_on": result.evaluated_on,
    }
    if result.decision is not None:
        tags["rayrec.decision"] = result.decision.recommendation
    return tags


def parameters(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Settings by dotted key, as text of at most 500 characters; lists as JSON."""
    found: dict[str, str] = {}
    for key, value in settings.items():
        name = f"{prefix}{_NOT_IN_NAMES.sub('_', str(key))}"
        if isinstance(value, Mapping) and value:
            found |= parameters(value, f"{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            found[name] = text if len(text) <= _LONGEST_PARAM else f"{text[: _LONGEST_PARAM - 1]}…"
    return found


def metrics(content: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of metrics.json by MLflow's names; missing values are left out."""
    found: dict[str, Any] = {"users_evaluated": content["users_evaluated"]}
    for system, values in content["systems"].items():
        for metric, interval in values.items():
            if isinstance(interval, Mapping):
                found |= {f"{system}/{metric}{end}": interval[part] for part, end in _INTERVAL}
    for row in content["differences"]:
        if row["segment"] == ALL_USERS:
            place = f"{row['system']} vs {row['baseline']}/{row['metric']}"
            found |= {f"{place}{end}": row[part] for part, end in (*_INTERVAL, ("p_adjusted", "_p_adjusted"))}
    numbers = {_metric_name(name): value for name, value in found.items() if isinstance(value, int | float)}
    return {name: float(value) for name, value in numbers.items()}


_INTERVAL = (("value", ""), ("low", "_low"), ("high", "_high"))


def _metric_name(name: str) -> str:
    """`ndcg@10` -> `ndcg_at_10`: MLflow takes no @ in names."""
    return _NOT_IN_NAMES.sub("_", name.replace("@", "_at_"))
