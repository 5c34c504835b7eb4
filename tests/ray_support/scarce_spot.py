"""A cloud without spot capacity: Ray's fake provider, which refuses spot nodes as EC2 does."""

from __future__ import annotations

from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException

from rayrec.ray_support.spot_provider import OnDemandFallback


class ScarceSpot(FakeMultiNodeProvider):
    def create_node_with_resources_and_labels(
        self, node_config: dict[str, Any], tags: dict[str, str], count: int, resources: Any, labels: Any
    ) -> None:
        if "InstanceMarketOptions" in node_config:
            raise NodeLaunchException("InsufficientInstanceCapacity", "no spot capacity in any of the zones", None)
        super().create_node_with_resources_and_labels(node_config, tags, count, resources, labels)


class ScarceSpotWithFallback(OnDemandFallback, ScarceSpot):
    """The fallback provider of cluster.yaml over this cloud."""
