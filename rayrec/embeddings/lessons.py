"""The past as lessons: users as they were at a few moments before the date, and what they did afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config.embeddings import Embeddings
from rayrec.embeddings.answers import Answers, answer
from rayrec.embeddings.events import Events, Items
from rayrec.hashing import hash_strings, mixed, seed_of
from rayrec.smallest import Smallest
from rayrec.units import DAY_US


@dataclass(frozen=True)
class Lesson:
    """Users at one moment, and what the log answers to each instruction that is taught."""

    before: Events
    answers: tuple[Answers, ...]
    held_out: npt.NDArray[np.bool_]  # [users]


def moments(settings: Embeddings, now: int) -> tuple[int, ...]:
    """Microseconds UTC, newest first: when users were asked; all answers end before `now`."""
    newest = now - int(settings.horizon_days * DAY_US)
    return tuple(newest - int(k * settings.training.every_days * DAY_US) for k in range(settings.training.cuts))


def lessons(
    settings: Embeddings, table: pa.Table, items: Items, event_weights: Sequence[float], now: int
) -> tuple[Lesson, ...]:
    """From HISTORY rows of any users. Nothing at or after `now` is looked at."""
    order = np.argsort(hash_strings(table["user_id"]), kind="stable")
    table = table.take(pa.array(order)).combine_chunks()
    hashes = hash_strings(table["user_id"])
    asked = [instruction.answer for instruction in settings.instructions.values() if instruction.answer]
    found = []
    for cut in moments(settings, now):
        before = Events.of(table, event_weights, cut)
        until = Events.of(table, event_weights, cut + int(settings.horizon_days * DAY_US))
        after = until.filter(until.ts >= cut)
        users = np.flatnonzero(before.lengths > 0)[: settings.training.users]
        before, after = before.take(users), after.take(users)
        held_out = _held_out(hashes[users], settings.training.held_out)
        found.append(Lesson(before, tuple(answer(one, before, after, items) for one in asked), held_out))
    return tuple(found)


def askable(settings: Embeddings, tables: Iterable[pa.Table], event_weights: Sequence[float], now: int) -> pa.Table:
    """The rows of those users whom `lessons` takes of all in these HISTORY tables: the same lessons, in less memory.

    Holds twice `training.users` rows a moment, and one table.
    """
    asked = [Smallest(settings.training.users) for _ in moments(settings, now)]
    for table in tables:
        hashes = hash_strings(table["user_id"])
        for chosen, cut in zip(asked, moments(settings, now), strict=True):
            users = np.flatnonzero(Events.of(table, event_weights, cut).lengths > 0)
            chosen.add(table.take(pa.array(users)), hashes[users])
    found = asked[0].table()
    for other in asked[1:]:
        more = other.table()
        found = pa.concat_tables([found, more.filter(pc.invert(pc.is_in(more["user_id"], found["user_id"])))])
    return found.combine_chunks()


def _held_out(hashes: npt.NDArray[np.uint64], share: float) -> npt.NDArray[np.bool_]:
    """A share of the users, by bits of their own: those asked here were chosen because their hashes are small."""
    bits = mixed(hashes ^ np.uint64(seed_of("held out")))
    return np.asarray(bits >> np.uint64(11) < np.uint64(share * 2**53))
