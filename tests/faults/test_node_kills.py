"""A node is killed in every stage of a run: another takes its place, and the rows are those of an undisturbed run."""

from __future__ import annotations

import pytest
from cluster_trials import KillCluster, environment_of_cluster
from trials import Field

pytestmark = pytest.mark.slow  # starts a cluster

# A stage's first write of such a file: its node dies right before.
STAGES = {
    "ingest": r"/work/.*/histories/",
    "fit": r"/models/item_model/",
    "tune": r"/models/llm/",
    "score": r"/receipts/",
    "publish": r"/slates/[^/]*/manifest\.json",  # by the driver; no work is left on the node
}


def test_a_node_that_is_killed_in_every_stage_costs_no_row(tmp_path_factory: pytest.TempPathFactory) -> None:
    shop = Field.make(tmp_path_factory.mktemp("nodes"))
    with environment_of_cluster(shop.control) as environment, KillCluster.start(shop, environment) as cluster:
        cluster.kill_nodes_at(tuple(STAGES.values()))
