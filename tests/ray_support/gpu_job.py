"""A job of the daily job's shape with shards that take long: tasks feed a pool [1, 4] of actors with one GPU each.

No shard is done before all four actors are at work, so that Ray Data learns nothing of its speed before.
"""

from __future__ import annotations

import asyncio
import json

import pyarrow as pa
import ray

from rayrec.config import Resources
from rayrec.ray_support.cluster import connect
from rayrec.ray_support.stage_runner import ActorPoolSpec, WorkItem, append_stage, results, work_item_dataset

ENGINES, SHARDS = 4, 8  # an actor takes two shards, and those without a place end once every shard is taken
LIMIT_S = 600.0  # for the nodes to come


@ray.remote(num_cpus=0)
class Meeting:
    """Opens when so many actors have come."""

    def __init__(self) -> None:
        self._came: set[str] = set()
        self._all = asyncio.Event()

    async def come(self, actor: str) -> None:
        self._came.add(actor)
        if len(self._came) == ENGINES:
            self._all.set()
        await asyncio.wait_for(self._all.wait(), LIMIT_S)


class Feed:
    def __init__(self, spec: None) -> None:
        pass

    def __call__(self, item: WorkItem, table: pa.Table) -> pa.Table:
        return pa.table({"user": [item.shard]})


class Engine(Feed):
    def __call__(self, item: WorkItem, table: pa.Table) -> pa.Table:
        context = ray.get_runtime_context()
        ray.get(ray.get_actor("meeting").come.remote(context.get_actor_id()))
        return pa.table({"gpus": [str(ray.get_gpu_ids())], "node": [context.get_node_id()]})


def main() -> None:
    with connect(Resources()):
        meeting = Meeting.options(name="meeting").remote()
        fed = append_stage(work_item_dataset([WorkItem(0, shard) for shard in range(SHARDS)]), Feed, None)
        done = list(results(append_stage(fed, Engine, None, pool=ActorPoolSpec((1, ENGINES), 1, 1))))
        del meeting
        print(json.dumps([row for table in done for row in table.to_pylist()]))


if __name__ == "__main__":
    main()
