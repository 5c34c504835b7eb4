"""The evaluation of a date as an MLflow run: parameters, metrics, and files without users."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from published_shop import PublishedShop, publish_shop
from typer.testing import CliRunner

from jobs import evaluate as evaluate_job
from rayrec.config.section import explain
from rayrec.config.tracking_section import MLflowTracking
from rayrec.publishing.slate_reader import read_manifest
from rayrec.reporting import mlflow_run
from rayrec.reporting.html_report import write_report
from rayrec.reporting.report_data import EXAMPLE, ReportData
from rayrec.storage import Storage, layout


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> PublishedShop:
    return publish_shop(tmp_path_factory.mktemp("shop"), users=80)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tracking store of MLflow's own in a folder: what runs without a server."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    url = f"file://{tmp_path / 'mlruns'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    return url


def evaluated(published: PublishedShop, *more: str) -> Any:
    sets = [word for one in (*published.sets, "tracking.mlflow={}", *more) for word in ("--set", one)]
    config = Path(__file__).parents[2] / "jobs" / "demo.yaml"
    date = str(published.shop.date)
    return CliRunner().invoke(evaluate_job.main, ["--config", str(config), *sets, "--date", date])


def runs(url: str, experiment: str) -> list[Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=url)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id]))


def test_an_evaluation_is_one_run_with_settings_metrics_and_the_report(
    published: PublishedShop, server: str, tmp_path: Path
) -> None:
    from mlflow.tracking import MlflowClient

    storage, day = Storage(published.config.output.root), published.shop.date
    manifest = read_manifest(storage.root, day)
    example = {
        name: [f"secret {name}"] if pa.types.is_string(EXAMPLE.field(name).type) else [None] for name in EXAMPLE.names
    }
    shown = ReportData(
        name="demo", date=day, run_id=manifest.run_id, published=True, publication_status="published",
        arms=dict.fromkeys(manifest.arms, ""), facts={}, users_in=1, users_published=1, users_quarantined={},
        users_ineligible={}, rows_read=1, rows_quarantined={}, examples=pa.table(example, schema=EXAMPLE),
    )  # fmt: skip
    write_report(shown, storage)
    for _ in range(2):
        result = evaluated(published)
        assert result.exit_code == 0, result.output
    (run,) = runs(server, published.config.name)  # the second evaluation updates the first's
    assert f"mlflow:  run {run.info.run_id}" in result.output
    assert run.info.status == "FINISHED"
    written = json.loads(storage.read(layout.metrics_path(day)))
    for system, values in written["systems"].items():
        for metric in ("ndcg@10", "recall@50"):
            logged = run.data.metrics[f"{system}/{metric.replace('@', '_at_')}"]
            assert logged == pytest.approx(values[metric]["value"])
    assert "llm vs control/ndcg_at_10_low" in run.data.metrics
    assert run.data.metrics["users_evaluated"] == written["users_evaluated"]
    settings = manifest.fingerprinted_settings
    assert run.data.params == mlflow_run.parameters(settings)
    assert run.data.params["slate.size"] == str(settings["slate"]["size"])
    assert run.data.tags["rayrec.date"] == str(day)
    assert run.data.tags["rayrec.decision"] == written["decision"]["recommendation"]
    client = MlflowClient(tracking_uri=server)
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"metrics.json", "report.html"}
    page = Path(client.download_artifacts(run.info.run_id, "report.html", str(tmp_path))).read_text()
    assert "ndcg@10" in page.lower()
    assert "secret user_id" not in page
    assert "secret user_id" in storage.read(layout.report_page_path(day)).decode()


def test_a_server_that_fails_is_an_error_after_the_metrics_are_written(
    published: PublishedShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, day = Storage(published.config.output.root), published.shop.date
    storage.write(layout.metrics_path(day), b"old")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:verysecret@127.0.0.1:9")
    result = evaluated(published)
    assert result.exit_code == 2
    assert "MLflow failed" in result.output
    assert "verysecret" not in result.output
    assert storage.read(layout.metrics_path(day)) != b"old"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    missing = evaluated(published)
    assert missing.exit_code == 2
    assert "MLFLOW_TRACKING_URI is not set" in missing.output


def test_a_url_in_the_config_holds_no_password() -> None:
    with pytest.raises(ValueError, match="user name or password") as caught:
        MLflowTracking(url="https://me:verysecret@host")
    assert "verysecret" not in explain(caught.value)  # type: ignore[arg-type]
    assert MLflowTracking(url="env:MINE").url == "env:MINE"


def test_settings_are_text_by_dotted_key() -> None:
    settings = {"a": {"b c": 1, "d": {"e": None, "f": {}}}, "g": [1, "x"], "h": "y" * 600, "i@j": True}
    found = mlflow_run.parameters(settings)
    assert found == {"a.b c": "1", "a.d.e": "null", "a.d.f": "{}", "g": '[1, "x"]', "h": f"{'y' * 499}…", "i_j": "true"}


def test_metrics_have_names_that_mlflow_takes_and_only_numbers() -> None:
    content = {
        "users_evaluated": 3,
        "systems": {"llm": {"users_evaluated": 3, "ndcg@10": {"value": 0.5, "low": 0.4, "high": None}}},
        "differences": [
            {"system": "llm", "baseline": "control", "metric": "hr@1", "segment": segment}
            | {"value": 0.1, "low": 0, "high": 1, "p_adjusted": 0.5}
            for segment in ("", "new users")
        ],
    }  # fmt: skip
    assert mlflow_run.metrics(content) == {
        "users_evaluated": 3,
        "llm/ndcg_at_10": 0.5,
        "llm/ndcg_at_10_low": 0.4,
        "llm vs control/hr_at_1": 0.1,
        "llm vs control/hr_at_1_low": 0,
        "llm vs control/hr_at_1_high": 1,
        "llm vs control/hr_at_1_p_adjusted": 0.5,
    }
