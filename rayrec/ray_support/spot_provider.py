"""On-demand fallback for missing spot capacity: the AWS node provider that cluster.yaml names.

Ray's autoscaler (2.60, both versions) has no such fallback: when EC2 refuses a spot launch, it requests the same node
type again every few seconds while the capacity is missing (tests/ray_support/test_autoscaling.py). This code runs where
Ray's autoscaler runs: on the machine that calls `ray up`, and on the head node. AWSNodeProvider is private in Ray 2.60,
which has no public name for it; tests/ray_support/test_cluster_files.py launches every node type with it.
"""

from __future__ import annotations

import logging
from typing import Any

from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE

logger = logging.getLogger(__name__)

# EC2 error codes for missing spot capacity; all others (permissions, account limits, config) must surface.
_NO_SPOT = frozenset(
    {"InsufficientInstanceCapacity", "MaxSpotInstanceCountExceeded", "SpotMaxPriceTooLow", "UnfulfillableCapacity"}
)


class OnDemandFallback(NodeProvider):  # type: ignore[misc]
    """Mixin: launches a refused spot type as the on-demand type that the provider's `on_demand_fallback` names.

    on_demand_fallback:
      <spot node type>: {node_type: <on-demand node type>, max_workers: <that type's max_workers>}
    """

    def create_node_with_resources_and_labels(
        self, node_config: dict[str, Any], tags: dict[str, str], count: int, resources: Any, labels: Any
    ) -> Any:
        """Launch `count` nodes, or on-demand nodes up to their max_workers.

        Raises NodeLaunchException after the fallback too, because the request for *spot* nodes has failed. The
        autoscaler finds the on-demand nodes in the cluster, adopts them, and counts them against the demand.
        """
        launch = super().create_node_with_resources_and_labels
        try:
            return launch(node_config, tags, count, resources, labels)
        except NodeLaunchException as refusal:
            fallback = self.provider_config.get("on_demand_fallback", {}).get(tags[TAG_RAY_USER_NODE_TYPE])
            if fallback is None or refusal.category not in _NO_SPOT:
                raise
            node_type = fallback["node_type"]
            room = fallback["max_workers"] - len(self.non_terminated_nodes({TAG_RAY_USER_NODE_TYPE: node_type}))
            if room > 0:
                logger.info("%s: launching %d x %s instead", refusal.category, min(count, room), node_type)
                on_demand = {key: value for key, value in node_config.items() if key != "InstanceMarketOptions"}
                launch(on_demand, {**tags, TAG_RAY_USER_NODE_TYPE: node_type}, min(count, room), resources, labels)
            raise


class AwsSpotProvider(OnDemandFallback, AWSNodeProvider):  # type: ignore[misc]
    """Ray's AWS provider with the fallback."""
