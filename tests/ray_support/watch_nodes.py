"""Print the cluster's worker nodes by type, one JSON line per change, until stdin is closed and no worker is left."""

from __future__ import annotations

import collections
import json
import select
import sys

import ray
from ray.autoscaler.v2.sdk import get_cluster_status


def main() -> None:
    ray.init(log_to_driver=False, logging_level="ERROR")
    address = ray.get_runtime_context().gcs_address
    last: dict[str, int] = {}
    print(json.dumps(last), flush=True)
    while last or not select.select([sys.stdin], [], [], 0.2)[0]:
        status = get_cluster_status(address)
        types = (node.ray_node_type_name for node in status.active_nodes + status.idle_nodes)
        now = dict(collections.Counter(each for each in types if each != "ray.head.default"))
        if now != last:
            print(json.dumps(now), flush=True)
            last = now


if __name__ == "__main__":
    main()
