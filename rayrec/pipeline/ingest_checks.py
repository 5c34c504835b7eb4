"""Checks of the ingested data against the settings of the arms, before the models are fitted.

What would end as "nobody has a slate" after the whole run is refused here, with the key that causes it.
"""

from __future__ import annotations

import logging

import pyarrow as pa

from rayrec.config import Retrieval, Slate
from rayrec.errors import DataError
from rayrec.experiments.arm_plan import ArmPath
from rayrec.pipeline.interaction_ingest import IngestResult
from rayrec.pipeline.run_context import RunContext
from rayrec.slates.scored_candidates import CatalogueItems
from rayrec.slates.slate_rules import Rules, unreadable_numbers

_LOG = logging.getLogger(__name__)


def check_ingested(context: RunContext, data: IngestResult) -> None:
    """Raise DataError if no user can get a slate in any arm, or a range reads an attribute that is mostly no number."""
    if not sum(shard.histories for shard in data.shards):
        return  # the fit says so
    items, attributes = CatalogueItems.of(data.catalogue), data.catalogue["attributes"]
    problems = {path.arm: _problem(context, path, data, items, attributes) for path in context.arms}
    if all(problems.values()):
        what, hint = next(problem for problem in problems.values() if problem)
        raise DataError(
            f"nobody can have a slate: {what}", where=f"arm {next(iter(problems))}, {context.dt}", hint=hint
        )
    for arm, problem in problems.items():
        if problem:
            _LOG.warning("arm %s: nobody can have a slate: %s; %s", arm, *problem)


def _column(context: RunContext, attribute: str) -> str:
    field = context.config.data.items.attributes.get(attribute, attribute)
    return field if isinstance(field, str) else field.column


def _problem(
    context: RunContext, path: ArmPath, data: IngestResult, items: CatalogueItems, attributes: pa.ChunkedArray
) -> tuple[str, str] | None:
    """Why nobody can have a slate in this arm, and what to do; None if somebody may."""
    rules = path.at("slate").read(Slate).rules
    applied = Rules.of(rules, items, attributes)
    if applied.pins:
        return None
    if not items.available.any():
        return f"none of the {len(items.ids):,} items is available", "check the column that data.items.available names"
    for name, allowed in rules.ranges.items():
        count, given, example = unreadable_numbers(attributes, name)
        if not count:
            continue
        key, column = f"slate.rules.ranges.{name}", _column(context, name)
        what = f"{count:,} of {given:,} items have a {name!r} that is no number, for example {example!r}"
        hint = (
            f"say how the column writes numbers: data.items.attributes.{name}: "
            f"{{column: {column}, number: '1,234.56'}} (or '1.234,56'), or give plain numbers such as 3.50"
        )
        if 2 * count > given:
            where = f"{context.config.data.items.path or context.config.data.interactions.path}, column {column!r}"
            raise DataError(f"{key} cannot be applied: {what}", where=where, hint=hint)
        _LOG.warning("%s: %s; these items count as missing (missing: %s); %s", key, what, allowed.missing, hint)
    admitted = applied.admitted_items & items.available
    if not admitted.any():
        keys = ", ".join(f"slate.rules.{name}" for name in applied.passes)
        return f"the rules admit none of the {int(items.available.sum()):,} available items", f"loosen {keys}"
    unseen = [shard.unseen for shard in data.shards]
    if path.at("retrieve").read(Retrieval).exclude_seen and None not in unseen and not sum(filter(None, unseen)):
        what = (
            f"every user's history has all {int(items.available.sum()):,} available items, and seen items are excluded"
        )
        return what, "set retrieval.exclude_seen: false, or give a larger catalogue (data.items)"
    return None
