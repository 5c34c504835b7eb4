"""Evaluation of a published date: slate metrics, `jobs.evaluate` and `jobs.show`."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pytest
from published_shop import CONF, PublishedShop, publish_shop
from typer.testing import CliRunner

from jobs.evaluate import main as evaluate
from jobs.show import main as show
from rayrec.data import erasure_list
from rayrec.errors import DataError, MissingFileError
from rayrec.evaluation.evaluation_job import evaluate as evaluate_day
from rayrec.evaluation.ground_truth_metrics import ORACLE, evaluate_on_ground_truth, noise_detection
from rayrec.evaluation.outcomes import outcomes
from rayrec.evaluation.slate_evaluation import evaluate_slates
from rayrec.publishing.slate_reader import read_catalogue, read_denoised, read_manifest
from rayrec.reporting.example_users import example_rows, least_similar_users, removed_examples, users_with_removals
from rayrec.reporting.html_report import write_report
from rayrec.reporting.report_data import ReportData
from rayrec.reporting.user_views import read_users
from rayrec.storage import Storage


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> PublishedShop:
    return publish_shop(tmp_path_factory.mktemp("published"))


def wanted(day: PublishedShop) -> pa.Table:
    return pa.csv.read_csv(day.shop.truth_root / "next.csv")


def value(comparison: pa.Table, system: str, metric: str) -> float:
    wanted = {"system": system, "metric": metric, "baseline": None, "segment": ""}
    (found,) = [row["value"] for row in comparison.to_pylist() if wanted.items() <= row.items()]
    return float(found)


def run(app: object, *arguments: str, sets: tuple[str, ...] = ()) -> tuple[int, str]:
    given = [*arguments, "--config", str(CONF), *(part for one in sets for part in ("--set", one))]
    result = CliRunner().invoke(app, given)  # type: ignore[arg-type]
    return result.exit_code, result.output


def test_the_best_possible_slates_have_the_values_of_the_generator_and_beat_each_retriever(day: PublishedShop) -> None:
    found = evaluate_slates(
        day.config.output.root, day.shop.date, wanted(day), others={"best": pa.Table.from_pandas(day.best)}
    )
    hits = day.best[day.best["rank"] <= 10].merge(pd.read_csv(day.shop.truth_root / "next.csv"))
    assert found.users == day.shop.users
    assert value(found.comparison, "llm", "hr@10") == pytest.approx(len(hits) / day.shop.users)
    assert value(found.comparison, "best", "hr@10") == value(found.comparison, "llm", "hr@10")
    alone = set(found.comparison["system"].to_pylist()) - {"llm", "control", "best"}
    assert {"popularity", "ease", found.best_standalone} <= alone
    assert all(value(found.comparison, name, "ndcg@10") < value(found.comparison, "llm", "ndcg@10") for name in alone)
    assert value(found.comparison, "ease", "hr@10") > 2 * value(found.comparison, "popularity", "hr@10")


def test_standalone_popularity_equals_popularity_computed_by_hand(day: PublishedShop) -> None:
    past = outcomes(day.config, day.shop.date - timedelta(days=60), 60).to_pandas()
    past = past[past["item_id"].isin(day.catalogue["item_id"].to_pylist())]
    order = past["item_id"].value_counts().rename_axis("item_id").reset_index(name="n")
    order = order.sort_values(["n", "item_id"], ascending=[False, True])["item_id"].tolist()
    had = past.groupby("user_id")["item_id"].agg(set)
    next_item = pd.read_csv(day.shop.truth_root / "next.csv").set_index("user_id")["item_id"]
    places = [[i for i in order if i not in had[user]].index(item) for user, item in next_item.items()]
    found = evaluate_slates(day.config.output.root, day.shop.date, wanted(day))
    assert value(found.comparison, "popularity", "hr@10") == pytest.approx(sum(p < 10 for p in places) / len(places))


def test_items_that_a_user_already_has_are_not_evaluated(day: PublishedShop) -> None:
    person = read_users(day.config.output.root, day.shop.date, ["user-0001"])[0]
    by_title = dict(zip(day.catalogue["title"].to_pylist(), day.catalogue["item_id"].to_pylist(), strict=True))
    had = pa.table({"user_id": ["user-0001"], "item_id": [by_title[person.history[0].title]]})
    with pytest.raises(DataError, match="none of the 200 users"):
        evaluate_slates(day.config.output.root, day.shop.date, had)
    both = evaluate_slates(day.config.output.root, day.shop.date, pa.concat_tables([had, wanted(day)]))
    assert both.events == day.shop.users


def test_users_with_too_few_events_are_not_evaluated(day: PublishedShop) -> None:
    every = evaluate_slates(day.config.output.root, day.shop.date, wanted(day))
    some = evaluate_slates(day.config.output.root, day.shop.date, wanted(day), min_events=15)
    assert 0 < some.users < every.users


@pytest.mark.parametrize("assignment", ["all", "split"])
def test_without_its_item_model_only_the_arms_of_a_run_are_evaluated(tmp_path: Path, assignment: str) -> None:
    day = publish_shop(tmp_path, users=60, arms=(f"arms.assignment={assignment}",))
    root = Path(day.config.output.root)
    whole = evaluate_slates(str(root), day.shop.date, wanted(day))
    shutil.rmtree(root / "models")
    found = evaluate_slates(str(root), day.shop.date, wanted(day))
    assert found.best_standalone is None
    assert found.left_out.endswith("the item model of the run no longer exists")
    assert found.users == whole.users
    assert found.interleaving.equals(whole.interleaving)
    arms = pa.array(["control", "llm"])
    expected = whole.comparison.filter(pc.is_in(whole.comparison["system"], arms))
    expected = expected.filter(pc.fill_null(pc.not_equal(expected["baseline"], whole.best_standalone), True))
    counted = pa.array(["novelty@10", "popularity@10", "tail@10"])
    assert found.comparison.equals(expected.filter(pc.invert(pc.is_in(expected["metric"], counted))))


def test_the_output_says_why_no_retriever_was_evaluated(tmp_path: Path) -> None:
    day = publish_shop(tmp_path, users=60)
    shutil.rmtree(Path(day.config.output.root) / "models")
    erasure_list.add(Storage(day.config.output.root), pa.array(["somebody"]))
    status, output = run(evaluate, "--date", "2026-03-02", sets=day.sets)
    assert status == 0, output
    reason = "No standalone retrievers, novelty, popularity and tail: "
    reason += "the item model of the run was deleted by an erasure."
    assert reason in output
    content = json.loads((Path(day.config.output.root) / "reports/dt=2026-03-02/metrics.json").read_text())
    assert content["evaluated_on"].endswith(reason)
    assert content["best_standalone_retriever"] is None
    assert set(content["systems"]) == {"control", "llm"}


def test_outcomes_are_those_of_the_horizon_and_keep_the_contract(day: PublishedShop) -> None:
    found = outcomes(day.config, day.shop.date, 3).to_pandas()
    days = sorted(set(found["ts"].dt.date))
    assert days == [day.shop.date + timedelta(days=n) for n in range(3)]
    assert found["user_id"].str.len().min() > 0


def test_a_horizon_without_data_is_an_error(day: PublishedShop) -> None:
    with pytest.raises(DataError, match="no interactions from 2026-04-01 to 2026-04-07"):
        outcomes(day.config, day.shop.date + timedelta(days=30), 7)


def test_evaluate_prints_and_writes_every_system_with_intervals(day: PublishedShop) -> None:
    status, output = run(evaluate, "--date", "2026-03-02", "--horizon-days", "7", sets=day.sets)
    assert status == 0, output
    for word in ("popularity", "ease", "control", "llm", "coverage", "metrics:"):
        assert word in output
    root = Path(day.config.output.root)
    content = json.loads((root / "reports/dt=2026-03-02/metrics.json").read_text())
    assert {"popularity", "ease", "control", "llm"} <= set(content["systems"])
    ours = content["systems"]["llm"]
    assert {"users_evaluated", "recall@10", "recall@50", "ndcg@10", "hr@1", "coverage@10"} <= set(ours)
    assert ours["ndcg@10"]["low"] <= ours["ndcg@10"]["value"] <= ours["ndcg@10"]["high"]
    again = (root / "reports/dt=2026-03-02/metrics.json").read_bytes()
    run(evaluate, "--date", "2026-03-02", sets=day.sets)
    assert (root / "reports/dt=2026-03-02/metrics.json").read_bytes() == again


@pytest.fixture
def far_west(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set a time zone whose local date is the day before at midnight UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


def test_the_end_of_the_data_is_in_utc_in_every_time_zone(day: PublishedShop, far_west: None) -> None:
    newest = outcomes(day.config, day.shop.date, 60).to_pandas()["ts"].max().date()
    found = evaluate_day(day.config, day.shop.date, 60)
    assert found.evaluated_on.endswith(f"; the data end on {newest}.")


def test_the_error_for_an_unpublished_date_names_the_command(day: PublishedShop) -> None:
    status, output = run(evaluate, "--date", "2026-02-20", sets=day.sets)
    assert status == 4
    assert "python -m jobs.daily" in output
    assert "--date 2026-02-20" in output
    assert "Traceback" not in output


def test_show_prints_titles_reasons_and_each_arms_slate_from_the_output_alone(day: PublishedShop) -> None:
    out = next(one for one in day.sets if one.startswith("output.root"))
    manifest = read_manifest(day.config.output.root, day.shop.date)
    denoised = read_denoised(Storage(day.config.output.root), manifest, 0)
    user = users_with_removals(denoised, 1)[0]
    status, output = run(show, "--date", "2026-03-02", "--user", user, sets=(out,))
    assert status == 0, output
    assert "✗" in output
    assert "influence" in output
    first = day.best[(day.best["user_id"] == user) & (day.best["rank"] == 1)]["item_id"].iloc[0]
    titles = dict(zip(day.catalogue["item_id"].to_pylist(), day.catalogue["title"].to_pylist(), strict=True))
    assert titles[first] in output


def test_the_error_for_an_unknown_user_has_the_number_of_users(day: PublishedShop) -> None:
    status, output = run(show, "--date", "2026-03-02", "--user", "nobody", sets=day.sets)
    assert status == 2
    assert "200 of 200 users" in output


def test_examples_for_the_report_are_the_removed_events_with_their_titles(day: PublishedShop) -> None:
    storage, manifest = Storage(day.config.output.root), read_manifest(day.config.output.root, day.shop.date)
    denoised, catalogue = read_denoised(storage, manifest, 1), read_catalogue(storage, manifest)
    removed = removed_examples(denoised, catalogue["title"], 5)
    assert removed.num_rows == 5
    assert set(removed["variant"].to_pylist()) == {"influence"}
    users = users_with_removals(denoised, 3)
    rows = example_rows(read_users(day.config.output.root, day.shop.date, users))
    assert set(rows["user_id"].to_pylist()) == set(users)
    assert {"", "control", "llm"} == set(rows["arm"].to_pylist())
    assert any(rows["reason"].to_pylist())


def test_the_share_of_injected_noise_that_was_removed(day: PublishedShop) -> None:
    (found,) = noise_detection(day.config.output.root, day.shop)
    assert found.variant == "influence"
    assert found.noise == day.shop.noise
    assert found.true_positives <= min(found.noise, found.removed)
    assert found.precision > 1.5 * found.noise / found.events  # random removal gives noise / events


def test_the_ground_truth_table_has_the_bayes_limit_beside_the_arms(day: PublishedShop) -> None:
    found = evaluate_on_ground_truth(day.config.output.root, day.shop)
    assert value(found.comparison, ORACLE, "ndcg@10") == value(found.comparison, "llm", "ndcg@10")
    assert found.best_standalone != ORACLE


def test_evaluate_adds_its_table_to_the_days_report(day: PublishedShop) -> None:
    storage = Storage(day.config.output.root)
    counts: dict[str, int] = {}
    report = ReportData(
        name="shop",
        date=day.shop.date,
        run_id="r",
        published=True,
        publication_status="",
        arms={"control": "", "llm": ""},
        facts={},
        users_in=200,
        users_published=200,
        users_quarantined=counts,
        users_ineligible=counts,
        rows_read=0,
        rows_quarantined=counts,
    )
    write_report(report, storage)
    assert "Not evaluated yet" in storage.read("reports/dt=2026-03-02/report.html").decode()
    status, output = run(evaluate, "--date", "2026-03-02", sets=day.sets)
    assert status == 0, output
    page = storage.read("reports/dt=2026-03-02/report.html").decode()
    assert "Metrics on later interactions" in page
    assert "recent_popularity" in page
    assert "Not evaluated yet" not in page


def test_a_report_of_another_version_is_unchanged_and_the_date_is_evaluated(tmp_path: Path) -> None:
    day = publish_shop(tmp_path, users=40)
    storage, page = Storage(day.config.output.root), "reports/dt=2026-03-02/report.json"
    storage.write(page, b'{"sections": []}')
    status, output = run(evaluate, "--date", "2026-03-02", sets=day.sets)
    assert status == 0, output
    assert "another version of rayrec; jobs.daily for the date writes a new one" in output
    assert storage.exists("reports/dt=2026-03-02/metrics.json")
    assert storage.read(page) == b'{"sections": []}'


def test_a_shard_without_users_is_empty_and_a_lost_file_is_an_error(day: PublishedShop) -> None:
    storage, manifest = Storage(day.config.output.root), read_manifest(day.config.output.root, day.shop.date)
    nowhere = dataclasses.replace(manifest, run_id="another")
    assert read_denoised(storage, dataclasses.replace(nowhere, files=()), 0).num_rows == 0
    with pytest.raises(MissingFileError):
        read_denoised(storage, nowhere, 0)


def test_example_users_have_the_least_similar_slates() -> None:
    def table(slates: dict[str, list[str]]) -> pa.Table:
        rows = [(user, rank, item) for user, items in slates.items() for rank, item in enumerate(items, 1)]
        return pa.Table.from_pylist([dict(zip(("user_id", "rank", "item_id"), row, strict=True)) for row in rows])

    one = table({"same": ["a", "b", "c"], "turned": ["a", "b", "c"], "other": ["a", "b", "c"], "alone": ["a"]})
    other = table({"same": ["a", "b", "c"], "turned": ["c", "b", "a"], "other": ["d", "e", "f"]})
    assert least_similar_users(one, other, 3) == ["other", "turned", "same"]
