"""The synthetic dataset: reproducible bytes, correct ground truth, learnable structure."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rayrec.config import load
from rayrec.data.synthetic_dataset import (
    DATE,
    FOLLOW_UP_PROBABILITY,
    NOISE_SHARE,
    ORACLE_SIZE,
    SyntheticDataset,
    make_synthetic_dataset,
)

CONF = Path(__file__).parents[2] / "jobs" / "demo.yaml"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> SyntheticDataset:
    return make_synthetic_dataset(tmp_path_factory.mktemp("shop"), seed=3, users=300)


def events(shop: SyntheticDataset) -> pd.DataFrame:
    files = sorted((shop.data_root / "events").glob("*.csv"))
    rows = pd.concat([pd.read_csv(file, dtype=str) for file in files])
    broken = set(map(tuple, pd.read_csv(shop.truth_root / "broken.csv", dtype=str).fillna("").to_numpy()))
    return rows[[tuple(row) not in broken for row in rows.fillna("").to_numpy()]]


def past_events(shop: SyntheticDataset) -> pd.DataFrame:
    rows = events(shop)
    return rows[rows["ts"] < DATE.isoformat()]


def digest(root: Path) -> str:
    files = sorted(file for file in root.rglob("*") if file.is_file())
    return hashlib.sha256(b"".join(file.name.encode() + file.read_bytes() for file in files)).hexdigest()


def test_equal_seeds_give_equal_bytes_and_other_seeds_do_not(tmp_path: Path) -> None:
    made = [make_synthetic_dataset(tmp_path / str(n), seed=seed, users=40) for n, seed in enumerate((1, 1, 2))]
    hashes = [digest(shop.data_root.parent) for shop in made]
    assert hashes[0] == hashes[1] != hashes[2]


def test_each_day_has_a_file_including_days_after_the_date(shop: SyntheticDataset) -> None:
    files = sorted((shop.data_root / "events").glob("*.csv"))
    assert len(files) == 67
    for file in files:
        assert set(pd.read_csv(file)["ts"].str[:10]) == {file.stem}


def test_the_counts_match_the_files(shop: SyntheticDataset) -> None:
    past = past_events(shop)
    assert len(past) == shop.events
    noise = pd.read_csv(shop.truth_root / "noise.csv")
    assert len(noise) == shop.noise
    assert shop.noise / shop.events == pytest.approx(NOISE_SHARE, abs=0.02)
    assert past["user_id"].nunique() == shop.users
    assert not past.duplicated(["user_id", "item_id"]).any()


def test_noise_is_in_the_log_and_as_popular_as_wanted_items(shop: SyntheticDataset) -> None:
    past = past_events(shop)
    noise = pd.read_csv(shop.truth_root / "noise.csv")
    marked = past.merge(noise, how="left", indicator=True)["_merge"].eq("both").to_numpy()
    assert marked.sum() == shop.noise
    popularity = past.groupby("item_id")["user_id"].transform("size").to_numpy()
    assert np.median(popularity[marked]) == pytest.approx(np.median(popularity[~marked]), rel=0.25)


def test_follow_ups_occur_with_the_configured_probability(shop: SyntheticDataset) -> None:
    items = pd.read_csv(shop.data_root / "items.csv").set_index("item_id")
    nouns = items["title"].str.rpartition(" ")[2]
    past = events(shop).merge(pd.read_csv(shop.truth_root / "noise.csv"), how="left", indicator=True)
    past = past[past["_merge"] == "left_only"].sort_values(["user_id", "ts"])
    past["kind"], past["noun"] = past["item_id"].map(items["category"]), past["item_id"].map(nouns)
    within = past.groupby(["user_id", "kind"])["noun"]
    camping = past[(past["kind"] == "Camping") & (past["noun"] == "Tent")].index
    follows = within.shift(-1).loc[camping].dropna()
    assert (follows == "Bag").mean() > FOLLOW_UP_PROBABILITY * 0.8


def test_nobody_wants_seen_items_and_the_best_slate_predicts_the_next(shop: SyntheticDataset) -> None:
    past = past_events(shop)
    had = set(zip(past["user_id"], past["item_id"], strict=True))
    wanted = pd.read_csv(shop.truth_root / "next.csv")
    best = pd.read_csv(shop.truth_root / "best.csv")
    assert len(wanted) == shop.users
    assert len(best) == ORACLE_SIZE * shop.users
    assert not had & set(zip(wanted["user_id"], wanted["item_id"], strict=True))
    assert not had & set(map(tuple, best[best["probability"] > 0][["user_id", "item_id"]].to_numpy()))
    top = best[best["rank"] <= 10].merge(wanted)
    assert len(top) / shop.users > 0.8  # the Bayes limit of HR@10


def test_the_best_slate_is_calibrated(shop: SyntheticDataset) -> None:
    best = pd.read_csv(shop.truth_root / "best.csv")
    claimed = best[best["rank"] == 1]["probability"].mean()
    hits = len(best[best["rank"] == 1].merge(pd.read_csv(shop.truth_root / "next.csv"))) / shop.users
    assert hits == pytest.approx(claimed, abs=0.08)


def test_the_demo_config_is_valid_and_names_existing_columns(shop: SyntheticDataset) -> None:
    config = load(CONF, [f"data.root={shop.data_root}"])
    header = pd.read_csv(next(iter(sorted((shop.data_root / "events").glob("*.csv")))), nrows=0).columns
    assert {config.data.interactions.user_id, config.data.interactions.item_id} <= set(header)
    assert set(events(shop)["event"]) == set(config.data.events)
