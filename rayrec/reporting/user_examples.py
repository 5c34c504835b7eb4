"""One user's day in words: the history with titles, what was taken out of it and why, and the slate of each arm.

Everything comes from `output.root` of a published day: the manifest, the slates, and what the score stage leaves
beside its receipts:

    layout.run_catalogue_path          ITEM, sorted by item_id: the run's item codes
    layout.denoising_decisions_path    DENOISED_HISTORY, one row a (user, variant)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.schemas import DENOISED_HISTORY, ITEM
from rayrec.denoising.denoiser import REASONS
from rayrec.errors import DataError, MissingFileError
from rayrec.monitoring.run_statistics import rbo
from rayrec.numerics.hashing import shard_of
from rayrec.numerics.ragged import Ragged
from rayrec.publishing.records import Manifest
from rayrec.publishing.slate_reader import read_manifest, read_slates
from rayrec.reporting.removal_reasons import explain_removal
from rayrec.reporting.report_data import BEFORE_AFTER, EXAMPLE, REMOVED
from rayrec.storage import Storage, layout
from rayrec.storage.tables import read_parquet

_PAIR = pa.schema([pa.field("user_id", pa.string()), pa.field("item_id", pa.string())])


@dataclass(frozen=True)
class HistoryItem:
    title: str
    when: datetime  # UTC
    event: str
    removed: Mapping[str, str]  # denoising variant -> reason (one of REASONS); empty: kept by all
    why: Mapping[str, str]  # denoising variant -> the reason in words


@dataclass(frozen=True)
class SlateItem:
    rank: int
    title: str
    score: float
    source: str


@dataclass(frozen=True)
class UserView:
    user_id: str
    history: tuple[HistoryItem, ...]  # oldest first
    slates: Mapping[str, tuple[SlateItem, ...]]  # by arm


def read_catalogue(storage: Storage, manifest: Manifest) -> pa.Table:
    """The run's ITEM table. Raises MissingFileError."""
    return read_parquet(storage, layout.run_catalogue_path(manifest.dt, manifest.run_id), ITEM)


def read_denoised(storage: Storage, manifest: Manifest, shard: int) -> pa.Table:
    """One shard's DENOISED_HISTORY table; a shard that nobody fell into may have none. Raises MissingFileError."""
    try:
        data = storage.read(layout.denoising_decisions_path(manifest.dt, manifest.run_id, shard))
    except MissingFileError:
        if any(file.shard == shard for file in manifest.files):
            raise
        return DENOISED_HISTORY.empty_table()
    with pa.ipc.open_file(data) as reader:
        return reader.read_all()


def read_users(root: str, day: date, users: Sequence[str]) -> list[UserView]:
    """These users of a published day, in the order given.

    Raises PublicationError if the day is not published, DataError for a user it has neither history nor slate of.
    """
    storage, manifest = Storage(root), read_manifest(root, day)
    catalogue = read_catalogue(storage, manifest)
    titles = dict(zip(catalogue["item_id"].to_pylist(), catalogue["title"].to_pylist(), strict=True))
    wanted = pa.array(users, pa.string())
    shards = sorted(set(shard_of(wanted, manifest.shards).tolist()))
    denoised = pa.concat_tables(
        [
            table.filter(pc.is_in(table["user_id"], wanted))
            for table in (read_denoised(storage, manifest, s) for s in shards)
        ]
    )
    slates = read_slates(root, day, users=users)
    events = tuple(manifest.fingerprinted_settings["data"]["events"])
    return [_person(user, denoised, slates, catalogue["title"], titles, events, manifest) for user in users]


def _person(
    user: str,
    denoised: pa.Table,
    slates: pa.Table,
    title_of_code: pa.ChunkedArray,
    title_of_id: Mapping[str, str],
    events: Sequence[str],
    manifest: Manifest,
) -> UserView:
    rows = denoised.filter(pc.equal(denoised["user_id"], user)).to_pylist()
    ranked = slates.filter(pc.equal(slates["user_id"], user)).sort_by([("arm", "ascending"), ("rank", "ascending")])
    if not rows and not ranked.num_rows:
        raise _unknown(user, manifest)
    history = []
    first = rows[0] if rows else {"item": []}
    for place, code in enumerate(first["item"]):
        out = {row["variant"]: REASONS[row["reason"][place]] for row in rows if row["reason"][place]}
        why = {row["variant"]: explain_removal(row, place) for row in rows if row["reason"][place]}
        when = datetime.fromtimestamp(first["ts"][place] / 1e6, UTC)
        history.append(HistoryItem(title_of_code[code].as_py(), when, events[first["event"][place]], out, why))
    found: dict[str, list[SlateItem]] = {arm: [] for arm in manifest.arms}
    for row in ranked.to_pylist():
        title = title_of_id.get(row["item_id"], row["item_id"])
        found[row["arm"]].append(SlateItem(row["rank"], title, row["score"], row["source"]))
    return UserView(user, tuple(history), {arm: tuple(slate) for arm, slate in found.items() if slate})


def _unknown(user: str, manifest: Manifest) -> DataError:
    counts = manifest.users
    left = [f"{count:,} are ineligible ({reason})" for reason, count in counts.ineligible.items()]
    left += [f"{count:,} are in quarantine ({reason})" for reason, count in counts.quarantined.items()]
    others = f"; of the others {', '.join(left)}" if left else ""
    return DataError(
        f"user {user!r} has no slate on {manifest.dt}: {counts.published:,} of {counts.users_in:,} users do{others}",
        where=f"run {manifest.run_id}",
        hint="check the spelling; if it is right, this user has no event in the window, or is among the others",
    )


def users_with_removals(denoised: pa.Table, limit: int) -> list[str]:
    """Users of one DENOISED_HISTORY shard whom a person can take in at a glance: something taken out, 6 to 25 events if any."""
    taken = Ragged.from_arrow(denoised["reason"])
    removed = np.bincount(taken.rows, taken.values > 0, minlength=len(taken))
    fits = (taken.lengths >= 6) & (taken.lengths <= 25)
    order = np.lexsort((-removed, ~fits, removed == 0))
    users = denoised["user_id"].take(pa.array(order)).to_pylist()
    return list(dict.fromkeys(users))[:limit]


def least_similar_users(one: pa.Table, other: pa.Table, limit: int) -> list[str]:
    """Users whose slates in two arms (user_id, rank, item_id; the top 10 counts) overlap least by rank, least first."""
    top = [table.filter(pc.less_equal(table["rank"], 10)) for table in (one, other)]
    both = pa.concat_tables([table.select(["user_id", "item_id"]).cast(_PAIR) for table in top])
    users = pc.unique(both["user_id"])
    items = pc.unique(both["item_id"])
    rankings = []
    for table in top:
        ranking = np.full((len(users), 10), -1, np.int64)
        row, item = (
            pc.index_in(table[name].cast(pa.string()), value_set=known).to_numpy()
            for name, known in (("user_id", users), ("item_id", items))
        )
        ranking[row, table["rank"].to_numpy() - 1] = item
        rankings.append(ranking)
    there = np.flatnonzero((rankings[0][:, 0] >= 0) & (rankings[1][:, 0] >= 0))
    least = np.argsort(rbo(rankings[0][there], rankings[1][there]), kind="stable")[:limit]
    return list(users.take(pa.array(there[least])).to_pylist())


def removed_examples(denoised: pa.Table, titles: pa.ChunkedArray | pa.Array, limit: int) -> pa.Table:
    """REMOVED: of one DENOISED_HISTORY shard, the events taken out that do most harm; `titles` by item code."""
    reason, negative_influence = (
        Ragged.from_arrow(denoised["reason"]),
        Ragged.from_arrow(denoised["negative_influence"]).values,
    )
    out = np.flatnonzero(reason.values > 0)
    chosen = out[np.argsort(-np.nan_to_num(negative_influence[out]), kind="stable")][:limit]
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


def example_rows(people: Sequence[UserView], *, events: int = 15, ranks: int = 10) -> pa.Table:
    """EXAMPLE rows of some people: their newest events, and the top of each arm's slate."""
    rows: list[tuple[str, str, int, str, str, str]] = []
    for person in people:
        for place, past in enumerate(person.history[-events:]):
            reason = " / ".join(dict.fromkeys(past.removed.values()))
            detail = f"{past.when.date()} {past.event}"
            rows.append((person.user_id, "", place, past.title, detail, reason))
        for arm, slate in person.slates.items():
            rows += [(person.user_id, arm, item.rank, item.title, item.source, "") for item in slate[:ranks]]
    return pa.Table.from_pylist([dict(zip(EXAMPLE.names, row, strict=True)) for row in rows], EXAMPLE)


def before_after_rows(people: Sequence[UserView], *, events: int = 25) -> pa.Table:
    """BEFORE_AFTER rows of some people: their newest events, under each variant that took something from them."""
    rows = []
    for person in people:
        for variant in sorted({name for past in person.history for name in past.removed}):
            for place, past in enumerate(person.history[-events:]):
                when = f"{past.when.date()} {past.event}"
                values = (person.user_id, variant, place, past.title, when, past.why.get(variant, ""))
                rows.append(dict(zip(BEFORE_AFTER.names, values, strict=True)))
    return pa.Table.from_pylist(rows, BEFORE_AFTER)
