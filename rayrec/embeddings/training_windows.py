"""Training windows: users as of some cutoffs, the answers from the time after it, and both as token ids.

`training_windows` makes them from HISTORY rows, `TrainingExamples` tokenizes one, `batches` shuffles them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.config.embeddings_section import Embeddings
from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.embeddings.instruction_answers import Answers, answer
from rayrec.embeddings.source_views import View
from rayrec.embeddings.user_events import Events, Items
from rayrec.numerics.bottom_k_sample import BottomKSample
from rayrec.numerics.hashing import derive_seed, hash_strings, splitmix64

_MAX_ANSWER = 32  # tokens

TokenIds = tuple[int, ...]
Users = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TrainingWindow:
    """Users as of one cutoff, and their answers to each instruction that has an `answer`."""

    before: Events
    answers: tuple[Answers, ...]
    held_out: npt.NDArray[np.bool_]  # [users]


def window_cutoffs(settings: Embeddings, now: int) -> tuple[int, ...]:
    """Cutoffs of the windows, microseconds UTC, newest first. All horizons end at or before `now`."""
    newest = now - int(settings.horizon_days * MICROSECONDS_PER_DAY)
    return tuple(
        newest - int(k * settings.training.cutoff_interval_days * MICROSECONDS_PER_DAY)
        for k in range(settings.training.cutoffs)
    )


def training_windows(
    settings: Embeddings, table: pa.Table, items: Items, event_weights: Sequence[float], now: int
) -> tuple[TrainingWindow, ...]:
    """Build training windows from HISTORY rows in any order. Events at or after `now` are ignored."""
    order = np.argsort(hash_strings(table["user_id"]), kind="stable")
    table = table.take(pa.array(order)).combine_chunks()
    hashes = hash_strings(table["user_id"])
    specs = [instruction.answer for instruction in settings.instructions.values() if instruction.answer]
    found = []
    for cutoff in window_cutoffs(settings, now):
        before = Events.of(table, event_weights, cutoff)
        until = Events.of(table, event_weights, cutoff + int(settings.horizon_days * MICROSECONDS_PER_DAY))
        after = until.filter(until.ts >= cutoff)
        users = np.flatnonzero(before.lengths > 0)[: settings.training.max_users]
        before, after = before.take(users), after.take(users)
        held_out = _held_out(hashes[users], settings.training.validation_share)
        found.append(TrainingWindow(before, tuple(answer(one, before, after, items) for one in specs), held_out))
    return tuple(found)


def sample_training_users(
    settings: Embeddings, tables: Iterable[pa.Table], event_weights: Sequence[float], now: int
) -> pa.Table:
    """Select the HISTORY rows of the users that `training_windows` selects from all tables: same windows, less memory.

    Holds one table, and at most twice `training.max_users` rows per cutoff.
    """
    samples = [BottomKSample(settings.training.max_users) for _ in window_cutoffs(settings, now)]
    for table in tables:
        hashes = hash_strings(table["user_id"])
        for sample, cutoff in zip(samples, window_cutoffs(settings, now), strict=True):
            users = np.flatnonzero(Events.of(table, event_weights, cutoff).lengths > 0)
            sample.add(table.take(pa.array(users)), hashes[users])
    found = samples[0].table()
    for other in samples[1:]:
        more = other.table()
        found = pa.concat_tables([found, more.filter(pc.invert(pc.is_in(more["user_id"], found["user_id"])))])
    return found.combine_chunks()


@dataclass(frozen=True)
class TrainingExamples:
    """One training window as token ids."""

    views: dict[str, View]
    questions: tuple[TokenIds, ...]  # the instructions that have an `answer`
    closed: npt.NDArray[np.bool_]  # [questions]: yes or no
    answer_tokens: tuple[tuple[TokenIds, ...], ...]  # [questions][users]; empty if unknown
    train_users: Users  # users with an answer who are not held out
    validation_users: Users

    @classmethod
    def of(
        cls, settings: Embeddings, window: TrainingWindow, views: dict[str, View], tokenize: Callable[[str], list[int]]
    ) -> TrainingExamples:
        texts = [instruction.text for instruction in settings.instructions.values() if instruction.answer]
        ids: dict[str, TokenIds] = {}
        for text in itertools.chain.from_iterable(one.text for one in window.answers):
            if text not in ids:
                ids[text] = tuple(tokenize(text)[:_MAX_ANSWER])
        answers = tuple(tuple(ids[text] for text in one.text) for one in window.answers)
        answered = np.array([[bool(a) for a in one] for one in answers]).any(0)
        return cls(
            views,
            tuple(tuple(tokenize(text)) for text in texts),
            np.array([one.closed for one in window.answers]),
            answers,
            np.flatnonzero(answered & ~window.held_out),
            np.flatnonzero(answered & window.held_out),
        )

    def sample_questions(self, users: Users, limit: int, rng: np.random.Generator) -> list[tuple[int, int]]:
        """(position in `users`, question): up to `limit` random questions per user among those with an answer."""
        pairs = []
        for place, user in enumerate(users):
            known = [k for k, answers in enumerate(self.answer_tokens) if answers[user]]
            chosen = rng.permutation(len(known))[:limit]
            pairs += [(place, known[k]) for k in sorted(chosen.tolist())]
        return pairs


def batches(
    windows: Sequence[TrainingExamples], size: int, rng: np.random.Generator
) -> Iterator[tuple[TrainingExamples, Users]]:
    """All training users once, in random batches of up to `size` users of one window."""
    plan = []
    for window in windows:
        users = rng.permutation(window.train_users)
        plan += [(window, users[start : start + size]) for start in range(0, len(users), size)]
    for k in rng.permutation(len(plan)):
        yield plan[k]


def _held_out(hashes: npt.NDArray[np.uint64], share: float) -> npt.NDArray[np.bool_]:
    """Mask of the held-out users. Hashes are hashed again, because users were selected for their small hashes."""
    bits = splitmix64(hashes ^ np.uint64(derive_seed("held out")))
    return np.asarray(bits >> np.uint64(11) < np.uint64(share * 2**53))
