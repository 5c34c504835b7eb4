"""The memory that Ray reserves for a task, capped at what a node of the cluster has: more would never be placed."""

from __future__ import annotations

import ray


def placeable_memory(size: int) -> int | None:
    """`size` bytes, capped at Ray's memory of the largest node alive; None: nothing is reserved."""
    largest = max((node["Resources"].get("memory", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
    return min(size, int(largest) or size) or None
