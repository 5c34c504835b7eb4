"""RecTools' EASE as a peer, in an environment of its own (its numpy is another version).

    python3.11 -m venv PEER && PEER/bin/pip install rectools
    python -m benchmarks.scale ... --peer PEER/bin/python

Input: a users x items matrix of ones as scipy's .npz, the regularisation, and the number of new items for each user.
The last line of its output has the seconds of `fit` and of `recommend` for all users, and the CPU seconds of both, as
JSON.
"""

from __future__ import annotations

import json
import sys
import time


def main() -> None:
    given, regularization, count = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    import pandas as pd
    import scipy.sparse as sp
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import EASEModel

    cells = sp.load_npz(given).tocoo()
    events = pd.DataFrame({Columns.User: cells.row, Columns.Item: cells.col, Columns.Weight: 1.0})
    events[Columns.Datetime] = pd.Timestamp("2026-01-01")
    dataset = Dataset.construct(events)
    model = EASEModel(regularization=regularization)
    started, cpu = time.monotonic(), time.process_time()
    model.fit(dataset)
    fitted = time.monotonic()
    model.recommend(dataset.user_id_map.external_ids, dataset, k=count, filter_viewed=True)
    print(json.dumps({"fit": fitted - started, "top": time.monotonic() - fitted, "cpu": time.process_time() - cpu}))


if __name__ == "__main__":
    main()
