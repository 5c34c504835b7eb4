"""What the log says in answer to an instruction: examples (user before a cut, instruction, answer from after it)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rayrec.config.embeddings_section import Answer
from rayrec.embeddings.source_events import Events, Items
from rayrec.embeddings.view_vocabulary import words_of

RISE = 1.1  # of the mean price, to be called one
_NEXT_ITEMS = 3  # an open answer names this many items
WORDS_EACH = 4  # by this many words
_SOON = 1 / 3  # of the horizon


@dataclass(frozen=True)
class Answers:
    """To one instruction, of every user: `text` is empty where the log cannot say."""

    closed: bool  # yes or no: two answers that differ contradict each other
    yes: npt.NDArray[np.float64]  # [users] 1, 0, NaN where the log cannot say; NaN throughout for an open question
    text: tuple[str, ...]


def answer(asked: Answer, before: Events, after: Events, items: Items) -> Answers:
    """`before`: what was known at the cut; `after`: the events of the same users in [cut, horizon), `now` its end.

    Users without an event before the cut are not asked.
    """
    if asked.kind == "next":
        text = tuple(_next(before, after, items))
        return Answers(False, np.full(len(before), np.nan), text)
    yes = _yes(asked, before, after, items)
    yes[before.lengths == 0] = np.nan
    about = " ".join([asked.kind.replace("_", " "), *asked.words])
    when = _when(before, after) if asked.kind == "again" else [""] * len(before)
    text = tuple(
        "" if np.isnan(label) else f"{'yes' if label else 'no'} {about} {moment if label else ''}".strip()
        for label, moment in zip(yes, when, strict=True)
    )
    return Answers(True, yes, text)


def _yes(asked: Answer, before: Events, after: Events, items: Items) -> npt.NDArray[np.float64]:
    took = after.filter(after.weight > 0)
    if asked.kind == "again":
        return (took.lengths > 0).astype(np.float64)
    if asked.kind == "takes":
        fits = _about(items, asked.words)
        some = np.bincount(took.user, fits[took.item], minlength=len(took)) > 0
        return np.where(took.lengths > 0, some, np.nan)
    if asked.kind == "returns":
        some = np.bincount(after.user, after.weight < 0, minlength=len(after)) > 0
        return np.where(after.lengths > 0, some, np.nan)
    if asked.kind == "rates_high":
        mean = _means(took, took.value.astype(np.float64))
        return np.where(np.isnan(mean), np.nan, mean >= (asked.at_least or 0.0))
    had = before.filter(before.weight > 0)
    new, old = _means(took, items.price[took.item]), _means(had, items.price[had.item])
    return np.where(np.isnan(new) | np.isnan(old), np.nan, new > RISE * old)


def _about(items: Items, words: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Items whose text holds one of the words, [items]."""
    wanted = {word for text in words for word in words_of(text)}
    return np.array([not wanted.isdisjoint(words_of(text)) for text in items.text], np.bool_)


def _means(events: Events, of: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The mean of the values that exist, [users]; NaN for users without one."""
    there = ~np.isnan(of)
    count = np.bincount(events.user, there, minlength=len(events))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.bincount(events.user, np.nan_to_num(of), minlength=len(events)) / count)


def _when(before: Events, after: Events) -> list[str]:
    took = after.filter(after.weight > 0)
    first = np.full(len(took), took.now)
    first[took.lengths > 0] = took.ts[took.offsets[:-1][took.lengths > 0]]
    soon = first < before.now + _SOON * (after.now - before.now)
    return ["soon" if early else "later" for early in soon]


def _next(before: Events, after: Events, items: Items) -> list[str]:
    took = after.filter(after.weight > 0)
    texts = []
    for user in range(len(took)):
        chosen = dict.fromkeys(took.item[took.offsets[user] : took.offsets[user + 1]].tolist())
        titles = [" ".join(words_of(items.text[item])[:WORDS_EACH]) for item in list(chosen)[:_NEXT_ITEMS]]
        texts.append(" ".join(titles) if before.lengths[user] else "")
    return texts
