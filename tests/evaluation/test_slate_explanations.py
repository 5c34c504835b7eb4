"""Explanations of a published run: they keep what they say, by EASE's own scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import scipy.sparse as sp
from published_shop import CONF, PublishedShop, publish_shop
from typer.testing import CliRunner

from jobs.show import main as show
from rayrec import read_slates
from rayrec.evaluation.published_run import PublishedRun
from rayrec.evaluation.slate_explanations import DEPTH, SlateExplainer
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.user_scores import AllowedItems
from rayrec.publishing.slate_reader import read_denoised
from rayrec.reporting.example_users import explanation_rows
from rayrec.reporting.report_data import EXPLANATION
from rayrec.retrieval import item_model_store
from rayrec.retrieval.ease import EaseRetriever
from rayrec.retrieval.user_histories import UserHistories
from rayrec.storage import layout

USERS, RANKS = 12, 10


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> PublishedShop:
    return publish_shop(tmp_path_factory.mktemp("shop"), users=80)


@pytest.fixture
def explainer(shop: PublishedShop) -> SlateExplainer:
    """`publish_shop` names the variants by their methods."""
    variants = {"control": "none", "llm": "influence"}
    return SlateExplainer(PublishedRun.open(shop.config.output.root, shop.shop.date), variants)


def first_users(explainer: SlateExplainer) -> list[str]:
    denoised = read_denoised(explainer.run.storage, explainer.run.manifest, 0)
    return list(pc.unique(denoised["user_id"]).to_pylist()[:USERS])


def test_the_part_keeps_the_ranks_that_it_says(shop: PublishedShop, explainer: SlateExplainer) -> None:
    run, ease = explainer.run, explainer._ease
    denoised = read_denoised(run.storage, run.manifest, 0)
    found = explainer.explain(first_users(explainer), RANKS)
    assert len(found) == USERS * len(run.manifest.arms)
    assert any(part.items for part in found.values())
    for (user, arm), part in found.items():
        rows = denoised.filter(pc.equal(denoised["user_id"], user))
        row = rows.filter(pc.equal(rows["variant"], explainer.variants[arm])).slice(0, 1).combine_chunks()
        item, event = Ragged.from_arrow(row["item"]), Ragged.from_arrow(row["event"])
        weight = np.asarray(run.event_weights, np.float32)[event.values]
        weight = weight * Ragged.from_arrow(row["keep_weight"]).values
        anything = AllowedItems(np.ones(len(run.catalogue), np.bool_), item.filter(weight > 0))
        top = []
        for events in ((weight > 0) & np.isin(item.values, part.items), weight > 0):
            own = item.filter(events)
            times = own.like(np.zeros(len(own.values), np.int64))
            scores = ease.user_scores(UserHistories(own, times, own.like(weight[events]), len(run.catalogue)))
            top.append(scores.top(anything, DEPTH * RANKS).values)
        slates = read_slates(run.storage.root, shop.shop.date, arm=arm, users=[user])
        slate = slates.filter(pc.less_equal(slates["rank"], RANKS))["item_id"].cast(pa.string())
        codes = pc.index_in(slate, run.item_id).to_numpy()
        kept, explained = np.isin(codes, top[0]), np.isin(codes, top[1])
        assert abs(part.explained - int(explained.sum())) <= 1  # rounding at the last rank
        assert abs(part.kept - int((kept & explained).sum())) <= 1
        assert part.slate == RANKS
        assert part.kept >= 0.8 * part.explained - 1e-9
        assert len(part.items) <= part.history


def test_sparse_weights_explain_the_same(explainer: SlateExplainer, monkeypatch: pytest.MonkeyPatch) -> None:
    dense, ease = explainer.explain(first_users(explainer), RANKS), explainer._ease
    rows = np.repeat(ease.active, len(ease.active)), np.tile(ease.active, len(ease.active))
    csr = sp.csr_matrix((ease.weights.ravel(), rows), shape=(ease.items, ease.items))
    sparse = EaseRetriever(csr, ease.active, ease.items, ease.settings)
    other = SlateExplainer(explainer.run, explainer.variants)
    monkeypatch.setitem(other.__dict__, "_ease", sparse)
    assert other.explain(first_users(explainer), RANKS) == dense
    monkeypatch.setattr("rayrec.evaluation.slate_explanations.COLUMNS", 60)
    few = other.explain(first_users(explainer), RANKS)
    assert few.keys() == dense.keys()
    assert all(few[key].slate == dense[key].slate for key in dense)


def test_the_job_prints_them_and_says_why_it_cannot(shop: PublishedShop, explainer: SlateExplainer) -> None:
    user = first_users(explainer)[0]
    sets = [word for one in shop.sets for word in ("--set", one)]
    given = ["--config", str(CONF), *sets, "--date", shop.shop.date.isoformat(), "--user", user, "--why"]
    output = CliRunner().invoke(show, given).output
    assert "why, by EASE" in output
    assert "items of the history" in output
    assert "why, by EASE" not in CliRunner().invoke(show, given[:-1]).output
    rows = explanation_rows(explainer, [user])
    assert rows.schema.equals(EXPLANATION)
    assert set(rows["user_id"].to_pylist()) == {user}


def test_without_the_item_model_nothing_is_explained(tmp_path: Path) -> None:
    own = publish_shop(tmp_path, users=30)
    run = PublishedRun.open(own.config.output.root, own.shop.date)
    for info in list(run.storage.list(layout.model_kind_folder(item_model_store.KIND))):
        run.storage.delete(info.path)
    explainer = SlateExplainer(run, {})
    assert "no longer exists" in explainer.unavailable
    assert not explanation_rows(explainer, ["anybody"]).num_rows
