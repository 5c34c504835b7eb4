"""User views: a user's history with titles, the removed interactions with reasons, and the slate of each arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.id_text import canonical_ids
from rayrec.denoising.denoiser import REASONS
from rayrec.errors import DataError
from rayrec.numerics.hashing import shard_of
from rayrec.publishing.records import Manifest
from rayrec.publishing.slate_reader import read_catalogue, read_denoised, read_manifest, read_slates
from rayrec.reporting.removal_reasons import explain_removal
from rayrec.storage import Storage


@dataclass(frozen=True)
class HistoryItem:
    title: str
    when: datetime  # UTC
    event: str
    removed: Mapping[str, str]  # denoising variant -> reason (one of REASONS); empty if all retain it
    explanation: Mapping[str, str]  # denoising variant -> the reason as text


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


def read_users(root: str, day: date, users: Sequence[str]) -> list[UserView]:
    """Read these users on a published date, in the order given.

    Raises PublicationError if the date is not published, DataError for a user without history and slate.
    """
    storage, manifest, users = Storage(root), read_manifest(root, day), canonical_ids(users)
    catalogue = read_catalogue(storage, manifest)
    wanted = pa.array(users, pa.string())
    shards = sorted(set(shard_of(wanted, manifest.shards).tolist()))
    denoised = pa.concat_tables([read_denoised(storage, manifest, shard) for shard in shards])
    denoised = denoised.filter(pc.is_in(denoised["user_id"], wanted))
    slates = read_slates(root, day, users=users)
    return [_user_view(user, denoised, slates, catalogue, manifest) for user in users]


def _user_view(user: str, denoised: pa.Table, slates: pa.Table, catalogue: pa.Table, manifest: Manifest) -> UserView:
    rows = denoised.filter(pc.equal(denoised["user_id"], user)).to_pylist()
    ranked = slates.filter(pc.equal(slates["user_id"], user)).sort_by([("arm", "ascending"), ("rank", "ascending")])
    if not rows and not ranked.num_rows:
        raise _unknown_user(user, manifest)
    titles, events = catalogue["title"], tuple(manifest.fingerprinted_settings["data"]["events"])
    history = []
    first = rows[0] if rows else {"item": []}
    for place, code in enumerate(first["item"]):
        removed = {row["variant"]: REASONS[row["reason"][place]] for row in rows if row["reason"][place]}
        explanation = {row["variant"]: explain_removal(row, place) for row in rows if row["reason"][place]}
        when = datetime.fromtimestamp(first["ts"][place] / 1e6, UTC)
        event = events[first["event"][place]]
        history.append(HistoryItem(titles[code].as_py(), when, event, removed, explanation))
    codes = pc.index_in(ranked["item_id"].cast(pa.string()), catalogue["item_id"].combine_chunks()).to_pylist()
    by_arm: dict[str, list[SlateItem]] = {arm: [] for arm in manifest.arms}
    for row, code in zip(ranked.to_pylist(), codes, strict=True):
        title = row["item_id"] if code is None else titles[code].as_py()
        by_arm[row["arm"]].append(SlateItem(row["rank"], title, row["score"], row["source"]))
    return UserView(user, tuple(history), {arm: tuple(slate) for arm, slate in by_arm.items() if slate})


def _unknown_user(user: str, manifest: Manifest) -> DataError:
    counts = manifest.users
    without = [f"{count:,} are ineligible ({reason})" for reason, count in counts.ineligible.items()]
    without += [f"{count:,} are quarantined ({reason})" for reason, count in counts.quarantined.items()]
    others = f"; of the others {', '.join(without)}" if without else ""
    return DataError(
        f"user {user!r} has no slate on {manifest.dt}: {counts.published:,} of {counts.users_in:,} users do{others}",
        where=f"run {manifest.run_id}",
        hint="check the spelling; if it is right, this user has no event in the window, or is among the others",
    )
