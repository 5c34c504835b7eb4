"""RecTools' SASRec as a peer, in an environment of its own (its numpy is another version); data is exchanged as files.

    python3.11 -m venv PEER && PEER/bin/pip install "rectools[torch]"
    python -m benchmarks.instruct ... --peer PEER/bin/python

Input: an .npz of `user`, `item`, `ts` (int64, one row an event, oldest first; ts in microseconds) and `evaluated`
(int64 users). Output: an .npy of float32 [evaluated, items], the scores of all items; -inf for items without events.
"""

from __future__ import annotations

import sys

import numpy as np


def main() -> None:
    given, found, items, epochs, seed = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
    import pandas as pd
    import torch
    from pytorch_lightning import Trainer, seed_everything
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    seed_everything(seed)
    torch.use_deterministic_algorithms(True)
    data = np.load(given)
    events = pd.DataFrame(
        {
            Columns.User: data["user"],
            Columns.Item: data["item"],
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(data["ts"], unit="us"),
        }
    )
    dataset = Dataset.construct(events)

    def trainer() -> Trainer:
        return Trainer(
            max_epochs=epochs, accelerator="cpu", enable_progress_bar=False, logger=False, enable_checkpointing=False
        )

    model = SASRecModel(
        n_factors=64,
        n_blocks=2,
        n_heads=2,
        session_max_len=50,
        loss="softmax",
        lr=1e-3,
        batch_size=128,
        train_min_user_interactions=2,
        get_trainer_func=trainer,
    )
    model.fit(dataset)
    scores = np.full((len(data["evaluated"]), items), -np.inf, np.float32)
    for start in range(0, len(scores), 256):
        users = data["evaluated"][start : start + 256]
        recommended = model.recommend(users, dataset, k=len(dataset.item_id_map.external_ids), filter_viewed=False)
        row = pd.Index(users).get_indexer(recommended[Columns.User]) + start
        scores[row, recommended[Columns.Item].to_numpy()] = recommended[Columns.Score].to_numpy(np.float32)
    np.save(found, scores)


if __name__ == "__main__":
    main()
