"""A published date of the synthetic dataset, without Ray and LLM: `llm` is the optimal slate here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from rayrec.config import Config, load
from rayrec.config.section import NoSettings
from rayrec.data.schemas import HISTORY, ITEM, SLATE
from rayrec.data.synthetic_dataset import PAST_DAYS, SyntheticDataset, make_synthetic_dataset
from rayrec.denoising.denoiser import DenoiseStage
from rayrec.evaluation.outcomes import outcomes
from rayrec.experiments.arm_plan import plan_arms
from rayrec.numerics.hashing import shard_of
from rayrec.publishing.publishing_run import PublishingRun
from rayrec.publishing.records import Provenance, RunRecord, UserCounts
from rayrec.retrieval import item_model, item_model_store
from rayrec.retrieval.source_specs import source_specs
from rayrec.storage import Storage, layout
from rayrec.storage.tables import write_arrow, write_parquet

CONF = Path(__file__).parents[2] / "jobs" / "demo.yaml"
SIZE = 20


@dataclass(frozen=True)
class PublishedShop:
    shop: SyntheticDataset
    config: Config
    sets: tuple[str, ...]  # the `--set` values of this config
    catalogue: pa.Table
    best: pd.DataFrame


def publish_shop(root: Path, *, users: int = 200, arms: tuple[str, ...] = ()) -> PublishedShop:
    """Publish what jobs.daily would: validated events, item model, denoising, two arms, manifest.

    `arms`: additional `--set` values.
    """
    shop = make_synthetic_dataset(root / "demo", users=users)
    sets = (f"data.root={shop.data_root}", f"output.root={root / 'out'}", *arms)
    config = load(CONF, sets)
    catalogue = _catalogue(shop)
    histories = _histories(config, shop, catalogue)
    weights = tuple(config.data.events.values())
    specs = source_specs(config.retrieval)
    fits = item_model.required_sources([specs], factors=True)
    ids = catalogue["item_id"].combine_chunks()
    cut = int(datetime(shop.date.year, shop.date.month, shop.date.day, tzinfo=UTC).timestamp()) * 10**6
    model = item_model.fit([histories], ids, fits, weights, cut, 10**6)
    storage = Storage(config.output.root)
    item_model_store.save(storage, "fp", model)
    plan = plan_arms(config)
    record = RunRecord(
        shop.date, config.fingerprint, config.fingerprinted_settings(), (), config.data.shard_count, plan.names, "test"
    )
    run = PublishingRun.open(storage, record)
    write_parquet(storage, layout.run_catalogue_path(shop.date, record.run_id), catalogue)
    denoise = {
        arm: DenoiseStage.load(variant, variant, chosen, weights, model.denoiser_arrays(specs))
        for arm, variant, chosen in (("control", "none", NoSettings()), ("llm", "influence", config.denoise.settings))
    }
    best = pd.read_csv(shop.truth_root / "best.csv")
    of_shard = shard_of(histories["user_id"].combine_chunks(), config.data.shard_count)
    for shard in range(config.data.shard_count):
        mine = histories.filter(pa.array(of_shard == shard))
        members = plan.members(mine["user_id"])
        own = {arm: mine.filter(pa.array(users)).combine_chunks() for arm, users in members.items()}
        denoised = [stage(own[arm]) for arm, stage in denoise.items()]
        write_arrow(
            storage, layout.denoising_decisions_path(shop.date, record.run_id, shard), pa.concat_tables(denoised)
        )
        slates = {arm: _slates(shop, arm, best, of_arm["user_id"].to_pylist()) for arm, of_arm in own.items()}
        run.commit(shard, slates, UserCounts(len(mine), len(mine)), {})
    run.publish(Provenance(users_in=len(histories), models={item_model_store.KIND: "fp"}))
    return PublishedShop(shop, config, sets, catalogue, best)


def _catalogue(shop: SyntheticDataset) -> pa.Table:
    items = pd.read_csv(shop.data_root / "items.csv").sort_values("item_id")
    columns = {name: items[name].tolist() for name in ("item_id", "title", "category")}
    empty = {name: [None] * len(items) for name in ("description", "attributes", "available_from")}
    table = pa.table({**columns, **empty, "available": [True] * len(items)}).select(ITEM.names)
    return table.cast(ITEM)


def _histories(config: Config, shop: SyntheticDataset, catalogue: pa.Table) -> pa.Table:
    events = outcomes(config, shop.date - timedelta(days=PAST_DAYS), PAST_DAYS).to_pandas()
    code = {item: number for number, item in enumerate(catalogue["item_id"].to_pylist())}
    events["item"] = events["item_id"].map(code)
    events = events.dropna(subset=["item"]).sort_values(["user_id", "ts"], kind="stable")
    events["ts"] = events["ts"].dt.tz_convert(None).astype("datetime64[us]").astype(np.int64)
    rows = []
    for user, own in events.groupby("user_id", sort=True):
        lists = [own["item"].astype(int).tolist(), own["ts"].tolist(), own["event"].tolist()]
        rows.append((user, *lists, [float("nan")] * len(own), [-1] * len(own), []))
    return pa.Table.from_pylist([dict(zip(HISTORY.names, row, strict=True)) for row in rows], HISTORY)


def _slates(shop: SyntheticDataset, arm: str, best: pd.DataFrame, users: list[str]) -> pa.Table:
    """`llm`: the optimal slate; `control`: the same with the first item moved to the end."""
    own = best[best["user_id"].isin(users) & (best["rank"] <= SIZE)].sort_values(["user_id", "rank"])
    item = own["item_id"].to_numpy().reshape(-1, SIZE)
    item = np.roll(item, -1, axis=1) if arm == "control" else item
    rows = item.size
    columns = {
        "dt": pa.array([shop.date] * rows, pa.date32()),
        "arm": [arm] * rows,
        "slate_id": [f"{arm}-{user}" for user in own["user_id"]],
        "user_id": own["user_id"].tolist(),
        "rank": np.tile(np.arange(1, SIZE + 1, dtype=np.int16), len(item)),
        "item_id": item.ravel().tolist(),
        "score": np.tile(np.linspace(1, 0, SIZE, dtype=np.float32), len(item)),
        "source": ["ease"] * rows,
        "propensity": np.ones(rows, np.float32),
    }
    return pa.table({name: pa.array(values, SLATE.field(name).type) for name, values in columns.items()}, schema=SLATE)
