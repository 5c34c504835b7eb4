"""The demo's day against the truth planted in its shop: what users truly want next, and which events are noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from rayrec.data.synthetic_dataset import SyntheticDataset
from rayrec.evaluation.slate_evaluation import SlateEvaluation, evaluate_slates
from rayrec.numerics.ragged import Ragged
from rayrec.publishing.slate_reader import read_manifest
from rayrec.reporting.user_examples import read_catalogue, read_denoised
from rayrec.storage import Storage

ORACLE = "best possible"


@dataclass(frozen=True)
class NoiseDetection:
    """How well one denoising variant tells planted noise from wanted events."""

    variant: str
    events: int
    noise: int  # planted, among them
    removed: int
    true_positives: int  # taken out, and noise

    @property
    def precision(self) -> float:
        """Of what was taken out, the share that is noise; taking out at random has noise / events."""
        return self.true_positives / max(self.removed, 1)

    @property
    def recall(self) -> float:
        """Of the noise, the share that was taken out."""
        return self.true_positives / max(self.noise, 1)


def evaluate_on_ground_truth(root: str, shop: SyntheticDataset) -> SlateEvaluation:
    """Arms and retrievers on the next item each user truly wants, beside the best possible slate (the Bayes limit)."""
    wanted = pa_csv.read_csv(shop.truth_root / "next.csv")
    best = pa_csv.read_csv(shop.truth_root / "best.csv")
    return evaluate_slates(root, shop.date, wanted, others={ORACLE: best})


def noise_detection(root: str, shop: SyntheticDataset) -> list[NoiseDetection]:
    """For each variant that took something out."""
    storage, manifest = Storage(root), read_manifest(root, shop.date)
    denoised = pa.concat_tables([read_denoised(storage, manifest, shard) for shard in range(manifest.shards)])
    ids = read_catalogue(storage, manifest)["item_id"]
    noise = pa_csv.read_csv(shop.truth_root / "noise.csv")
    planted = pc.binary_join_element_wise(noise["user_id"], noise["item_id"], "/").combine_chunks()
    found = []
    for variant in pc.unique(denoised["variant"]).to_pylist():
        rows = denoised.filter(pc.equal(denoised["variant"], variant)).combine_chunks()
        item, keep = Ragged.from_arrow(rows["item"]), Ragged.from_arrow(rows["keep_weight"]).values
        users = rows["user_id"].take(pa.array(item.rows))
        pairs = pc.binary_join_element_wise(users, ids.take(pa.array(item.values)), "/").combine_chunks()
        is_noise = pc.is_in(pairs, planted).to_numpy(zero_copy_only=False)
        out = keep == 0
        if out.any():
            counts = (len(out), int(is_noise.sum()), int(out.sum()), int(np.count_nonzero(out & is_noise)))
            found.append(NoiseDetection(variant, *counts))
    return found
