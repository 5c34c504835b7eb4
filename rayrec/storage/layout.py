"""Where things lie under `output.root`.

runs/dt=2011-08-31/<run_id>/run.json                   what the run is; made first
runs/dt=2011-08-31/<run_id>/receipts/shard=0007.json   the shard is done, by this attempt
runs/dt=2011-08-31/<run_id>/targets/shard=0007.arrow    what other arms would have made of its slates (COUNTERFACTUAL_PROPENSITY)
slates/dt=2011-08-31/arm=llm/shard=0007-<attempt>.parquet
slates/dt=2011-08-31/manifest.json                     the publication: what it does not name does not exist

Other products (rayrec.publishing.products) lie like slates, under their own folders.
"""

from __future__ import annotations

import datetime
import re

MANIFEST = "manifest.json"

_DAY = re.compile(r"slates/dt=(\d{4}-\d{2}-\d{2})/manifest\.json")


def publication_folder(product: str, date: datetime.date) -> str:
    """All that is published of a product on a day."""
    return f"{product}/dt={date.isoformat()}"


def slates_folder(date: datetime.date) -> str:
    return publication_folder("slates", date)


def manifest_path(date: datetime.date, product: str = "slates") -> str:
    return f"{publication_folder(product, date)}/{MANIFEST}"


def manifest_date(path: str) -> datetime.date | None:
    """The date if `path` is a day's manifest, else None."""
    match = _DAY.fullmatch(path)
    return datetime.date.fromisoformat(match[1]) if match else None


def run_folder(date: datetime.date, run_id: str) -> str:
    return f"runs/dt={date.isoformat()}/{run_id}"


def record_path(date: datetime.date, run_id: str) -> str:
    return f"{run_folder(date, run_id)}/run.json"


def receipts_folder(date: datetime.date, run_id: str) -> str:
    return f"{run_folder(date, run_id)}/receipts"


def receipt_path(date: datetime.date, run_id: str, shard: int) -> str:
    return f"{receipts_folder(date, run_id)}/shard={shard:04d}.json"


def counterfactual_propensities_path(date: datetime.date, run_id: str, shard: int) -> str:
    return f"{run_folder(date, run_id)}/targets/shard={shard:04d}.arrow"
