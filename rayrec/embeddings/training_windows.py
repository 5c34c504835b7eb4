"""The past as lessons: users as they were at a few moments before the date, and what they did afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config.embeddings_section import Embeddings
from rayrec.embeddings.instruction_answers import Answers, answer
from rayrec.embeddings.source_events import Events, Items
from rayrec.numerics.bottom_k_sample import BottomKSample
from rayrec.numerics.hashing import derive_seed, hash_strings, splitmix64
from rayrec.numerics.time_units import MICROSECONDS_PER_DAY


@dataclass(frozen=True)
class TrainingWindow:
    """Users at one moment, and what the log answers to each instruction that is taught."""

    before: Events
    answers: tuple[Answers, ...]
    held_out: npt.NDArray[np.bool_]  # [users]


def window_cutoffs(settings: Embeddings, now: int) -> tuple[int, ...]:
    """Microseconds UTC, newest first: when users were asked; all answers end before `now`."""
    newest = now - int(settings.horizon_days * MICROSECONDS_PER_DAY)
    return tuple(
        newest - int(k * settings.training.every_days * MICROSECONDS_PER_DAY) for k in range(settings.training.cutoffs)
    )


def training_windows(
    settings: Embeddings, table: pa.Table, items: Items, event_weights: Sequence[float], now: int
) -> tuple[TrainingWindow, ...]:
    """From HISTORY rows of any users. Nothing at or after `now` is looked at."""
    order = np.argsort(hash_strings(table["user_id"]), kind="stable")
    table = table.take(pa.array(order)).combine_chunks()
    hashes = hash_strings(table["user_id"])
    asked = [instruction.answer for instruction in settings.instructions.values() if instruction.answer]
    found = []
    for cutoff in window_cutoffs(settings, now):
        before = Events.of(table, event_weights, cutoff)
        until = Events.of(table, event_weights, cutoff + int(settings.horizon_days * MICROSECONDS_PER_DAY))
        after = until.filter(until.ts >= cutoff)
        users = np.flatnonzero(before.lengths > 0)[: settings.training.users]
        before, after = before.take(users), after.take(users)
        held_out = _held_out(hashes[users], settings.training.held_out)
        found.append(TrainingWindow(before, tuple(answer(one, before, after, items) for one in asked), held_out))
    return tuple(found)


def sample_training_users(
    settings: Embeddings, tables: Iterable[pa.Table], event_weights: Sequence[float], now: int
) -> pa.Table:
    """The rows of those users whom `lessons` takes of all in these HISTORY tables: the same lessons, in less memory.

    Holds twice `training.users` rows a moment, and one table.
    """
    asked = [BottomKSample(settings.training.users) for _ in window_cutoffs(settings, now)]
    for table in tables:
        hashes = hash_strings(table["user_id"])
        for chosen, cutoff in zip(asked, window_cutoffs(settings, now), strict=True):
            users = np.flatnonzero(Events.of(table, event_weights, cutoff).lengths > 0)
            chosen.add(table.take(pa.array(users)), hashes[users])
    found = asked[0].table()
    for other in asked[1:]:
        more = other.table()
        found = pa.concat_tables([found, more.filter(pc.invert(pc.is_in(more["user_id"], found["user_id"])))])
    return found.combine_chunks()


def _held_out(hashes: npt.NDArray[np.uint64], share: float) -> npt.NDArray[np.bool_]:
    """A share of the users, by bits of their own: those asked here were chosen because their hashes are small."""
    bits = splitmix64(hashes ^ np.uint64(derive_seed("held out")))
    return np.asarray(bits >> np.uint64(11) < np.uint64(share * 2**53))
