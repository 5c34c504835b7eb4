"""What the cluster can give, compared with what the job asks for, before anything waits.

An engine or a training worker that no node can hold waits for ever, and engines that take every CPU leave none for the
tasks that feed them. On a cluster that cannot grow, pools are therefore made as large as fits, and what never fits is
refused. A cluster that an autoscaler may extend gets the requests as configured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rayrec.config import Resources
from rayrec.errors import RayrecError

TASK_CPUS = 1.0  # of each task beside the engines


class ClusterError(RayrecError):
    """The Ray cluster cannot be reached or started, or cannot give what the job needs."""


@dataclass(frozen=True)
class Node:
    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class Capacity:
    """The nodes alive. `may_grow`: an autoscaler may add others, also larger ones."""

    nodes: tuple[Node, ...]
    may_grow: bool = False

    def __str__(self) -> str:
        cpus, gpus = sum(node.cpus for node in self.nodes), sum(node.gpus for node in self.nodes)
        graphics = f" and {gpus:g} GPUs" if math.isfinite(gpus) else ""
        nodes = "1 node" if len(self.nodes) == 1 else f"{len(self.nodes)} nodes"
        return f"{nodes} with {cpus:g} CPUs{graphics} in all"


@dataclass(frozen=True)
class Placement:
    """What the job asks for. `notes`: how it differs from the settings, and why."""

    engines: int | tuple[int, int]
    engine_cpus: float
    engine_gpus: float
    notes: tuple[str, ...] = ()


def place_engines(resources: Resources, capacity: Capacity) -> Placement:
    """The pool of engines that fits, with a CPU left for the tasks before and after them.

    Fewer engines come first, then fewer CPUs an engine (which are for placement only: `rerank_threads` stays). Raises
    ClusterError if not even one engine fits.
    """
    cpus, gpus = resources.rerank_num_cpus, resources.rerank_num_gpus
    given = Placement(resources.rerank_actors, cpus, gpus)
    if capacity.may_grow or not capacity.nodes:
        return given
    if not any(node.gpus >= gpus for node in capacity.nodes):
        raise ClusterError(
            f"an LLM engine needs {gpus:g} GPUs on one node, and no node has them: {capacity}",
            where="resources.rerank_num_gpus",
            hint="set resources.rerank_num_gpus: 0 to run on CPUs, or add a node",
        )
    least, most = (given.engines, given.engines) if isinstance(given.engines, int) else given.engines
    for count in range(most, 0, -1):
        if _fits(capacity.nodes, count, cpus, gpus):
            if count == most:
                return given
            engines = count if isinstance(given.engines, int) else (min(least, count), count)
            note = f"{count} LLM engines, not {most} (resources.rerank_actors): more would leave no CPU for the tasks"
            return replace(given, engines=engines, notes=(f"{note} that feed them; {capacity}",))
    usable = max(_cpus_beside(capacity.nodes, node) for node in capacity.nodes if node.gpus >= gpus)
    note = (
        f"1 LLM engine reserves {usable:g} CPUs, not {cpus:g} (resources.rerank_num_cpus): tasks that feed it need one"
    )
    return replace(given, engines=1, engine_cpus=usable, notes=(f"{note}; {capacity}",))


def check_gpu_stages(resources: Resources, llm: bool, capacity: Capacity) -> None:
    """Raise ClusterError if the actors that denoise, retrieve and, with `llm`, rerank never get their GPUs together:
    the stages run side by side, and each keeps its least number of actors."""
    stages = [("denoise", resources.denoise_num_gpus, resources.denoise_actors)]
    stages.append(("retrieve", resources.retrieve_num_gpus, resources.retrieve_actors))
    if llm:
        stages.append(("rerank", resources.rerank_num_gpus, resources.rerank_actors))
    if capacity.may_grow or not capacity.nodes:
        return
    largest = max(node.gpus for node in capacity.nodes)
    for name, gpus, _ in stages:
        if gpus > largest:
            raise ClusterError(
                f"an actor needs {gpus:g} GPUs on one node, and no node has them: {capacity}",
                where=f"resources.{name}_num_gpus",
                hint="set it to 0 to run on CPUs, or add a node",
            )
    least = sum(gpus * (actors if isinstance(actors, int) else actors[0]) for _, gpus, actors in stages)
    if least > sum(node.gpus for node in capacity.nodes):
        named = ", ".join(f"{name}_num_gpus" for name, gpus, _ in stages if gpus)
        raise ClusterError(
            f"the actors of the stages need {least:g} GPUs at once; {capacity}",
            where=f"resources: {named}",
            hint="let stages share a GPU with fractions such as 0.3, or run one of them on CPUs with 0",
        )


def place_workers(count: int, cpus: float, gpus: float, capacity: Capacity) -> tuple[int, tuple[str, ...]]:
    """How many of `count` training workers fit at once (`cpus` each: at most those of the largest node), and a note if
    fewer. Raises ClusterError if none fits."""
    if capacity.may_grow or not capacity.nodes:
        return count, ()
    for number in range(count, 0, -1):
        if _placed(capacity.nodes, number, cpus, gpus) is not None:
            note = f"{number} training workers, not {count} (resources.tune_workers): more do not fit; {capacity}"
            return number, () if number == count else (note,)
    raise ClusterError(
        f"a training worker needs {cpus:g} CPUs and {gpus:g} GPUs on one node, and no node has them: {capacity}",
        where="resources.tune_num_gpus" if gpus else "resources.tune_num_cpus",
        hint="lower it, or add a node",
    )


def _fits(nodes: Sequence[Node], count: int, cpus: float, gpus: float) -> bool:
    """Whether `count` engines fit, and a task beside them."""
    left = _placed(nodes, count, cpus, gpus)
    return left is not None and max(left) >= min(TASK_CPUS, max(node.cpus for node in nodes))


def _placed(nodes: Sequence[Node], count: int, cpus: float, gpus: float) -> list[float] | None:
    """The CPUs left on each node after placing `count` requests, on the smallest nodes first; None if they do not fit.

    The largest node is filled last, so that a task fits if it can.
    """
    left = [[node.cpus, node.gpus] for node in sorted(nodes, key=lambda node: (node.cpus, node.gpus))]
    for _ in range(count):
        for node in left:
            if node[0] >= cpus and node[1] >= gpus:
                node[0], node[1] = node[0] - cpus, node[1] - gpus
                break
        else:
            return None
    return [node[0] for node in left]


def _cpus_beside(nodes: Sequence[Node], node: Node) -> float:
    """The CPUs of a node that an engine may take if a task must fit somewhere: all, where another node has a CPU."""
    others = list(nodes)
    others.remove(node)
    elsewhere = any(other.cpus >= TASK_CPUS for other in others)
    return node.cpus if elsewhere else max(0.0, node.cpus - TASK_CPUS)
