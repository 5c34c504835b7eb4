"""Metrics of the demo against the synthetic dataset's ground truth: true next items and injected noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from rayrec.data.synthetic_dataset import SyntheticDataset
from rayrec.evaluation.slate_evaluation import SlateEvaluation, evaluate_slates
from rayrec.numerics.ragged import Ragged
from rayrec.publishing.slate_reader import read_catalogue, read_denoised, read_manifest
from rayrec.storage import Storage

ORACLE = "oracle"


@dataclass(frozen=True)
class NoiseDetection:
    """How well one denoising variant detects the injected noise."""

    variant: str
    events: int
    noise: int  # injected events among them
    removed: int
    true_positives: int  # removed noise

    @property
    def precision(self) -> float:
        """Share of the removed events that are noise; random removal gives noise / events."""
        return self.true_positives / max(self.removed, 1)

    @property
    def recall(self) -> float:
        """Share of the noise that was removed."""
        return self.true_positives / max(self.noise, 1)


def evaluate_on_ground_truth(root: str, dataset: SyntheticDataset) -> SlateEvaluation:
    """Evaluate arms and retrievers on each user's true next item, beside the oracle slate (the Bayes limit)."""
    next_items = pa_csv.read_csv(dataset.truth_root / "next.csv")
    oracle = pa_csv.read_csv(dataset.truth_root / "best.csv")
    return evaluate_slates(root, dataset.date, next_items, others={ORACLE: oracle})


def noise_detection(root: str, dataset: SyntheticDataset) -> list[NoiseDetection]:
    """Noise detection of each denoising variant that removed events."""
    storage, manifest = Storage(root), read_manifest(root, dataset.date)
    denoised = pa.concat_tables([read_denoised(storage, manifest, shard) for shard in range(manifest.shards)])
    ids = read_catalogue(storage, manifest)["item_id"]
    noise = pa_csv.read_csv(dataset.truth_root / "noise.csv")
    injected = pc.binary_join_element_wise(noise["user_id"], noise["item_id"], "/").combine_chunks()
    found = []
    for variant in pc.unique(denoised["variant"]).to_pylist():
        rows = denoised.filter(pc.equal(denoised["variant"], variant)).combine_chunks()
        item, keep = Ragged.from_arrow(rows["item"]), Ragged.from_arrow(rows["keep_weight"]).values
        users = rows["user_id"].take(pa.array(item.rows))
        pairs = pc.binary_join_element_wise(users, ids.take(pa.array(item.values)), "/").combine_chunks()
        is_noise = pc.is_in(pairs, injected).to_numpy(zero_copy_only=False)
        out = keep == 0
        if out.any():
            counts = (len(out), int(is_noise.sum()), int(out.sum()), int(np.count_nonzero(out & is_noise)))
            found.append(NoiseDetection(variant, *counts))
    return found
