"""Erasing users of a real run: from all files, and from later runs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable
from erasure_dataset import CHECKPOINT, USERS, Made
from typer.testing import CliRunner

from jobs import daily as daily_job
from jobs import evaluate as evaluate_job
from jobs import forget as forget_job
from rayrec import read_slates
from rayrec.data import erasure_list
from rayrec.data.erasure_list import ErasureList
from rayrec.data.synthetic_dataset import DATE
from rayrec.errors import DataError, NoInteractionsError, PublicationError
from rayrec.pipeline import erasure_run as pipeline
from rayrec.pipeline.interaction_ingest import histories, ingest
from rayrec.pipeline.item_model_fitting import cutoffs, item_model_spec
from rayrec.pipeline.user_data_inventory import _filter, find_user_data
from rayrec.publishing import code_version
from rayrec.publishing.manifest import find_manifest
from rayrec.publishing.slate_reader import read_counterfactual_propensities
from rayrec.reranking.item_token import tuned_checkpoint
from rayrec.retrieval import item_model, item_model_store
from rayrec.retrieval.ease import unpacked
from rayrec.storage import Storage, artifacts, layout

UNKNOWN = "nobody we know"


def forget(made: Made, users: tuple[str, ...] | None = None, *more: str) -> str:
    path = made.file_of((*made.gone, UNKNOWN) if users is None else users)
    result = made.run(forget_job.main, "--users", str(path), *more)
    assert result.exit_code == 0, result.output
    return result.output


def certificates(made: Made) -> list[dict[str, Any]]:
    found = [info.path for info in made.storage.list("erasure/certificates")]
    return [json.loads(made.storage.read(path)) for path in found]


def test_erased_users_are_gone_from_slates_models_and_all_files(made: Made) -> None:
    before, old = read_slates(str(made.root), made.date), find_manifest(made.storage, made.date)
    context = made.context()
    models = [item_model_spec(context, ingest(context), cutoff)[1] for cutoff in cutoffs(context)]
    assert old is not None
    slate_ids = before.filter(pc.is_in(before["user_id"], pa.array(made.gone)))["slate_id"]
    assert len(slate_ids) > 0
    known = ErasureList(b"salt", frozenset(ErasureList(b"salt").token(user) for user in made.gone))
    assert {holding.kind for holding in find_user_data(made.storage, known)} >= {"slates", "runs", "work", "reports"}
    output = forget(made)
    assert "5 users in" in output
    assert "5 of them new" in output

    after, now = read_slates(str(made.root), made.date, verify=True), find_manifest(made.storage, made.date)
    assert now is not None
    others = before.filter(pc.invert(pc.is_in(before["user_id"], pa.array(made.gone))))
    assert after.equals(others)
    assert now.users.users_in == old.users.users_in
    assert now.users.published == old.users.published - len(made.gone)
    assert now.users.ineligible["erased"] == len(made.gone)
    assert not now.users.balance_error()
    assert now.rows == others.num_rows
    delta = pa.table(DeltaTable(made.storage.url(layout.SLATES)).to_pyarrow_table())
    assert delta.num_rows == others.num_rows
    assert set(delta["user_id"].to_pylist()) == set(others["user_id"].to_pylist())
    assert {info.path for info in made.storage.list("slates") if "shard=" in info.path} == {f.path for f in now.files}

    targets = pa.concat_tables(
        [read_counterfactual_propensities(made.storage, now, shard) for shard in range(now.shards)]
    )
    assert targets.num_rows > 0
    assert not pc.any(pc.is_in(targets["slate_id"], slate_ids.combine_chunks())).as_py()
    assert find_user_data(made.storage, known) == []
    assert not any(artifacts.exists(made.storage, item_model_store.KIND, fingerprint) for fingerprint in models)
    page = made.storage.read(f"reports/dt={made.date}/report.html").decode()
    assert made.gone[0] not in page
    for path, content in made.contents().items():
        assert path.startswith("quarantine/") or not any(user.encode() in content for user in made.gone), path

    (certificate,) = certificates(made)
    assert certificate["users"] == {"in_request": 5, "found": 4, "not_found": 1}
    assert certificate["stale_checkpoints"] == [CHECKPOINT]
    with pytest.raises(DataError, match="stale: it was tuned on users who were erased"):
        tuned_checkpoint.fetch_checkpoint(made.storage, CHECKPOINT)


def test_corrected_models_equal_a_refit_without_the_users(made: Made, tmp_path: Path) -> None:
    forget(made)
    (certificate,) = certificates(made)
    refit = replace(made, root=tmp_path / "refit")
    shutil.copytree(made.root / "erasure", refit.root / "erasure")
    shutil.copytree(made.root / "work", refit.root / "work")
    context = refit.context()
    data = ingest(context)
    assert len(certificate["item_models"]) == len(cutoffs(context)) == 1
    for cutoff, row in zip(cutoffs(context), certificate["item_models"], strict=True):
        specs, fingerprint = item_model_spec(context, data, cutoff)
        assert fingerprint == row["after"] != row["before"]
        exact = item_model.fit(
            (histories(context, shard) for shard in range(context.config.data.shard_count)),
            data.catalogue["item_id"].combine_chunks(),
            specs,
            context.event_weights,
            cutoff,
            context.config.fit.max_events,
        )
        found = item_model_store.load(made.storage, fingerprint)
        assert np.array_equal(found.features, exact.features)
        how = {source["kind"]: source for source in row["sources"]}
        assert {kind: source["how"] for kind, source in how.items()} == {
            "ease": "downdated",
            "ials": "item factors recomputed",
            "item_knn": "refitted",
            "popularity": "refitted",
        }
        assert how["ease"]["difference_to_refit"] < 1e-8
        for key, fitted in exact.fitted.items():
            if fitted.method == "ease":
                size = len(fitted.arrays["active"])
                one, other = (unpacked(m.fitted[key].arrays["inverse"], size) for m in (found, exact))
                assert np.abs(one / one.diagonal() - other / other.diagonal()).max() < 1e-8
            elif fitted.method != "ials":
                assert all(np.array_equal(found.fitted[key].arrays[n], array) for n, array in fitted.arrays.items())


def test_newer_code_corrects_publications_of_older_code(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def model() -> str:
        context = made.context()
        return item_model_spec(context, ingest(context), cutoffs(context)[0])[1]

    published = model()
    monkeypatch.setattr(sys.modules[code_version.__module__], "_commit", lambda checkout: "newer")
    forget(made)
    (certificate,) = certificates(made)
    (row,) = certificate["item_models"]
    assert (row["before"], row["after"]) == (published, model())
    assert "downdated" in {source["how"] for source in row["sources"]}


def test_a_later_run_neither_learns_from_erased_users_nor_scores_them(made: Made) -> None:
    forget(made)
    later = made.date + timedelta(days=1)
    result = made.run(daily_job.main, "--date", later.isoformat())
    assert result.exit_code == 0, result.output
    assert "users ineligible: erased" in result.output
    manifest = find_manifest(made.storage, later)
    assert manifest is not None
    assert manifest.users.ineligible["erased"] == len(made.gone)
    assert not manifest.users.balance_error()
    slates = read_slates(str(made.root), later)
    assert len(pc.unique(slates["user_id"])) == manifest.users.published == USERS - len(made.gone)
    context = made.context(later)
    assert sum(histories(context, shard).num_rows for shard in range(context.config.data.shard_count)) == USERS - len(
        made.gone
    )
    listed = erasure_list.read(made.storage)
    assert find_user_data(made.storage, listed) == []
    assert next(file for file in manifest.inputs if file.path == "erasure").size == 5


def test_a_published_date_is_not_published_again_after_an_erasure(made: Made) -> None:
    forget(made)
    before = made.contents()
    result = made.run(daily_job.main, "--date", made.date.isoformat())
    assert result.exit_code == 4
    assert "erasure: added" in result.output
    assert made.contents() == before


def judged(made: Made) -> dict[str, Any]:
    """The evaluation of the published date by `jobs.evaluate`."""
    result = made.run(evaluate_job.main, "--date", made.date.isoformat())
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(made.storage.read(f"reports/dt={made.date}/metrics.json"))
    return found


def test_the_newest_date_is_evaluated_with_its_corrected_model(made: Made) -> None:
    whole = judged(made)
    forget(made)
    (certificate,) = certificates(made)
    manifest = find_manifest(made.storage, made.date)
    assert manifest is not None
    assert manifest.models["item_model"] == certificate["item_models"][-1]["after"]
    found = judged(made)
    assert set(found["systems"]) == set(whole["systems"]) >= {"popularity", "ease", "llm", "control"}
    assert whole["users_evaluated"] - len(made.gone) <= found["users_evaluated"] < whole["users_evaluated"]


def test_a_date_without_models_is_evaluated_by_arms_with_the_reason(made: Made, tmp_path: Path) -> None:
    """jobs.forget corrects only the models of one date; those of an older date are deleted."""
    other = replace(made, root=tmp_path / "other")
    shutil.copytree(made.root, other.root)
    forget(made, None, "--date", (made.date + timedelta(days=1)).isoformat())
    forget(other)
    found, with_model = judged(made), judged(other)
    assert found["evaluated_on"].endswith("the item model of the run was deleted by an erasure.")
    assert found["best_standalone_retriever"] is None
    assert set(found["systems"]) == {"llm", "control"}
    for arm, values in found["systems"].items():
        assert values == {name: value for name, value in with_model["systems"][arm].items() if name in values}


def test_models_are_not_corrected_but_deleted_if_nobody_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(context: str) -> None:
        raise NoInteractionsError(f"there are no interactions in {context}")

    monkeypatch.setattr(pipeline, "is_ingested", lambda context: True)
    monkeypatch.setattr(pipeline, "ingest", nobody)
    assert pipeline.unlearn("before", "now") == []  # type: ignore[arg-type]


def test_a_second_erasure_changes_nothing(made: Made) -> None:
    forget(made)
    before = made.contents()
    assert "nothing to do" in forget(made)
    assert made.contents() == before


def test_unknown_users_are_counted_and_stay_on_the_list(made: Made) -> None:
    slates = read_slates(str(made.root), made.date)
    forget(made, (UNKNOWN,))
    (certificate,) = certificates(made)
    assert certificate["users"] == {"in_request": 1, "found": 0, "not_found": 1}
    assert read_slates(str(made.root), made.date, verify=True).equals(slates)
    assert erasure_list.read(made.storage).contains(pa.array([UNKNOWN, "somebody", None])).tolist() == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("step", ["unlearn", "_mark_stale", "erase", "_delete_derived", "_filter"])
def test_a_killed_erasure_is_completed_by_the_next_call(made: Made, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after each step, or in the middle of it; the next call may concern other users."""

    def killed(*arguments: object, **more: object) -> object:
        real(*arguments, **more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if step != "_filter":
            real = getattr(pipeline, step)
            patched.setattr(pipeline, step, killed)
        else:  # in the middle of erasing: only the first file is rewritten
            patched.setattr("rayrec.pipeline.user_data_inventory._filter", killed_after_one())
        result = made.run(forget_job.main, "--users", str(made.file_of((*made.gone, UNKNOWN))))
        assert result.exit_code != 0
    assert certificates(made) == []
    assert "0 of them new" in forget(made, made.gone[:1])
    (certificate,) = certificates(made)
    assert certificate["users"] == {"in_request": 5, "found": 4, "not_found": 1}
    assert find_user_data(made.storage, erasure_list.read(made.storage)) == []
    assert not any(user.encode() in made.storage.read(f"reports/dt={made.date}/report.html") for user in made.gone)
    read_slates(str(made.root), made.date, verify=True)


def killed_after_one() -> Callable[[Storage, str, ErasureList], None]:
    done: list[str] = []

    def killed(storage: Storage, path: str, gone: ErasureList) -> None:
        if done:
            raise KeyboardInterrupt
        _filter(storage, path, gone)
        done.append(path)

    return killed


def test_a_run_that_began_before_the_request_does_not_publish(made: Made) -> None:
    context = made.context()
    context.require_same_erasure_list()
    erasure_list.add(made.storage, pa.array(["somebody"]))
    with pytest.raises(PublicationError, match="users were erased while the job ran"):
        context.require_same_erasure_list()


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        (None, (), "no such file"),
        (b"user\nu1\n", (), "there is no column 'user_id'"),
        (b"user_id\nu1\n", ("--column", "id"), "there is no column 'id'"),
        (b"", (), "cannot be read"),
        (b"user_id,x\nu1\n", (), "cannot be read"),
    ],
)
def test_an_unreadable_file_is_a_clear_error(
    tmp_path: Path, content: bytes | None, more: tuple[str, ...], message: str
) -> None:
    made = Made(tmp_path, tmp_path / "out", DATE, ())
    if content is not None:
        (tmp_path / "users.csv").write_bytes(content)
    result = CliRunner().invoke(forget_job.main, [*made.options, "--users", str(tmp_path / "users.csv"), *more])
    assert result.exit_code == 2
    assert message in result.output
    assert made.storage.list() == []
