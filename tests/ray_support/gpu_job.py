"""A minimal job of the daily job's shape: Ray Data feeds a pool of actors with one GPU each."""

from __future__ import annotations

import json

import pyarrow as pa
import ray

from rayrec.config import Resources
from rayrec.ray_support.cluster import connect


class Scorer:
    def __call__(self, batch: pa.Table) -> pa.Table:
        gpus = pa.array([str(ray.get_gpu_ids())] * batch.num_rows)
        return batch.append_column("gpus", gpus)


def main() -> None:
    with connect(Resources()):
        users = ray.data.range(8, override_num_blocks=2)
        scored = users.map_batches(Scorer, batch_format="pyarrow", batch_size=4, num_gpus=1, concurrency=1)
        print(json.dumps(scored.take_all()))


if __name__ == "__main__":
    main()
