"""Example users for the report: users with removed interactions, and users whose slates differ between arms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.denoising.denoiser import REASONS
from rayrec.evaluation.slate_explanations import SlateExplainer
from rayrec.monitoring.rank_overlap import rank_biased_overlap
from rayrec.numerics.ragged import Ragged
from rayrec.reporting.report_data import BEFORE_AFTER, EXAMPLE, EXPLANATION, REMOVED
from rayrec.reporting.user_views import UserView

_PAIR = pa.schema([pa.field("user_id", pa.string()), pa.field("item_id", pa.string())])


def users_with_removals(denoised: pa.Table, limit: int) -> list[str]:
    """Users of one DENOISED_HISTORY shard with the most removed interactions; histories of 6 to 25 events first."""
    reason = Ragged.from_arrow(denoised["reason"])
    removed = np.bincount(reason.rows, reason.values > 0, minlength=len(reason))
    readable = (reason.lengths >= 6) & (reason.lengths <= 25)
    order = np.lexsort((-removed, ~readable, removed == 0))
    users = denoised["user_id"].take(pa.array(order)).to_pylist()
    return list(dict.fromkeys(users))[:limit]


def least_similar_users(one: pa.Table, other: pa.Table, limit: int) -> list[str]:
    """Users whose top 10 in two arms (columns user_id, rank, item_id) have the lowest rank-biased overlap, in order."""
    top_10 = [table.filter(pc.less_equal(table["rank"], 10)) for table in (one, other)]
    both = pa.concat_tables([table.select(["user_id", "item_id"]).cast(_PAIR) for table in top_10])
    users = pc.unique(both["user_id"])
    items = pc.unique(both["item_id"])
    rankings = []
    for table in top_10:
        ranking = np.full((len(users), 10), -1, np.int64)
        row = pc.index_in(table["user_id"].cast(pa.string()), value_set=users).to_numpy()
        item = pc.index_in(table["item_id"].cast(pa.string()), value_set=items).to_numpy()
        ranking[row, table["rank"].to_numpy() - 1] = item
        rankings.append(ranking)
    both_arms = np.flatnonzero((rankings[0][:, 0] >= 0) & (rankings[1][:, 0] >= 0))
    least = np.argsort(rank_biased_overlap(rankings[0][both_arms], rankings[1][both_arms]), kind="stable")[:limit]
    return list(users.take(pa.array(both_arms[least])).to_pylist())


def removed_examples(denoised: pa.Table, titles: pa.ChunkedArray | pa.Array, limit: int) -> pa.Table:
    """REMOVED: removed events of one DENOISED_HISTORY shard, most negative influence first; `titles` by item code."""
    reason = Ragged.from_arrow(denoised["reason"])
    negative_influence = Ragged.from_arrow(denoised["negative_influence"]).values
    removed = np.flatnonzero(reason.values > 0)
    chosen = removed[np.argsort(-np.nan_to_num(negative_influence[removed]), kind="stable")][:limit]
    row = pa.array(reason.rows[chosen])

    def flat(name: str) -> pa.Array:
        return pa.array(Ragged.from_arrow(denoised[name]).values[chosen])

    columns = {
        "user_id": denoised["user_id"].take(row),
        "variant": denoised["variant"].take(row),
        "title": titles.take(flat("item")),
        "ts": flat("ts"),
        "reason": pa.array([REASONS[code] for code in reason.values[chosen]], pa.string()),
        "influence": flat("influence"),
        "negative_influence": flat("negative_influence"),
    }
    return pa.table(columns, schema=REMOVED)


def example_rows(users: Sequence[UserView], *, events: int = 15, ranks: int = 10) -> pa.Table:
    """EXAMPLE rows: each user's newest events, and the first ranks of each arm's slate."""
    rows: list[tuple[str, str, int, str, str, str]] = []
    for user in users:
        for position, item in enumerate(user.history[-events:]):
            reason = " / ".join(dict.fromkeys(item.removed.values()))
            rows.append((user.user_id, "", position, item.title, f"{item.when.date()} {item.event}", reason))
        for arm, slate in user.slates.items():
            rows += [(user.user_id, arm, item.rank, item.title, item.source, "") for item in slate[:ranks]]
    return pa.Table.from_pylist([dict(zip(EXAMPLE.names, row, strict=True)) for row in rows], EXAMPLE)


def explanation_rows(explainer: SlateExplainer, users: Sequence[str], *, ranks: int = 10) -> pa.Table:
    """EXPLANATION rows of these users' slates, down to this rank; none if the run has nothing that explains."""
    titles, rows = explainer.run.catalogue["title"], list[tuple[str, str, int, str, str]]()
    for (user, arm), found in explainer.explain(users, ranks).items():
        summary = f"{len(found.items)} of {found.history} items of the history keep {found.kept} of "
        summary += f"{found.slate} ranks; with all of them it keeps {found.explained}"
        if not found.items:
            summary = f"none of the {found.history} items of the history explains it: other sources found it"
        names = [titles[code].as_py() for code in found.items] or [""]
        rows += [(user, arm, place, name, summary) for place, name in enumerate(names, 1)]
    return pa.Table.from_pylist([dict(zip(EXPLANATION.names, row, strict=True)) for row in rows], EXPLANATION)


def before_after_rows(users: Sequence[UserView], *, events: int = 25) -> pa.Table:
    """BEFORE_AFTER rows: each user's newest events, once per denoising variant that removed an event of the user."""
    rows = []
    for user in users:
        for variant in sorted({name for item in user.history for name in item.removed}):
            for position, item in enumerate(user.history[-events:]):
                detail = f"{item.when.date()} {item.event}"
                values = (user.user_id, variant, position, item.title, detail, item.explanation.get(variant, ""))
                rows.append(dict(zip(BEFORE_AFTER.names, values, strict=True)))
    return pa.Table.from_pylist(rows, BEFORE_AFTER)
