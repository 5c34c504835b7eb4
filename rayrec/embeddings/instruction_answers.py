"""Answers to instructions, derived from the events in the horizon after a cutoff: the training labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rayrec.config.embeddings_section import Answer
from rayrec.config.registry import Registry
from rayrec.embeddings.user_events import Events, Items
from rayrec.embeddings.word_vocabulary import words_of

RISE = 1.1  # minimum ratio of mean prices for `price_up`
_NEXT_ITEMS = 3  # items in an open answer
WORDS_EACH = 4  # words of each item
_SOON = 1 / 3  # share of the horizon


@dataclass(frozen=True)
class Answers:
    """Answers of all users to one instruction; `text` is empty if unknown."""

    closed: bool  # yes or no, so that different answers contradict each other
    yes: npt.NDArray[np.float64]  # [users] 1, 0, or NaN if unknown; all NaN for an open question
    text: tuple[str, ...]


Labels = npt.NDArray[np.float64]  # [users] 1, 0, or NaN if unknown
ANSWERS: Registry[Callable[[Answer, Events, Events, Items], Labels]] = Registry(
    "embeddings.instructions.NAME.answer.kind", "kind of answer", built_in=("next",)
)
"""(the answer's settings, events before the cutoff, events after it, items) -> labels."""


def answer(spec: Answer, before: Events, after: Events, items: Items) -> Answers:
    """Derive the answers of users from their events in the horizon after the cutoff.

    `before`: events before the cutoff; `after`: those in the horizon, with `after.now` its end. Users without events
    before the cutoff have no answer.
    """
    if spec.kind == "next":
        text = tuple(_next(before, after, items))
        return Answers(False, np.full(len(before), np.nan), text)
    yes = ANSWERS[spec.kind](spec, before, after, items)
    yes[before.lengths == 0] = np.nan
    about = " ".join([spec.kind.replace("_", " "), *spec.words])
    when = _when(before, after) if spec.kind == "again" else [""] * len(before)
    text = tuple(
        "" if np.isnan(label) else f"{'yes' if label else 'no'} {about} {moment if label else ''}".strip()
        for label, moment in zip(yes, when, strict=True)
    )
    return Answers(True, yes, text)


@ANSWERS.register_as("again")
def _again(spec: Answer, before: Events, after: Events, items: Items) -> Labels:
    """Whether the user has a positive event in the horizon."""
    return (_consumed(after).lengths > 0).astype(np.float64)


@ANSWERS.register_as("takes")
def _takes(spec: Answer, before: Events, after: Events, items: Items) -> Labels:
    """Whether the user consumes an item with one of `words` in its title or category; unknown if none is consumed."""
    consumed, fits = _consumed(after), _about(items, spec.words)
    some = np.bincount(consumed.user, fits[consumed.item], minlength=len(consumed)) > 0
    return np.where(consumed.lengths > 0, some, np.nan)


@ANSWERS.register_as("returns")
def _returns(spec: Answer, before: Events, after: Events, items: Items) -> Labels:
    """Whether the user has an event of negative weight; unknown without events."""
    some = np.bincount(after.user, after.weight < 0, minlength=len(after)) > 0
    return np.where(after.lengths > 0, some, np.nan)


@ANSWERS.register_as("rates_high")
def _rates_high(spec: Answer, before: Events, after: Events, items: Items) -> Labels:
    """Whether the user's mean value is at least `at_least`; unknown without values."""
    consumed = _consumed(after)
    mean = _means(consumed, consumed.value.astype(np.float64))
    return np.where(np.isnan(mean), np.nan, mean >= (spec.at_least or 0.0))


@ANSWERS.register_as("price_up")
def _price_up(spec: Answer, before: Events, after: Events, items: Items) -> Labels:
    """Whether the mean `price` of consumed items exceeds the history's by a tenth; unknown if none is consumed."""
    consumed, had = _consumed(after), _consumed(before)
    new, old = _means(consumed, items.price[consumed.item]), _means(had, items.price[had.item])
    return np.where(np.isnan(new) | np.isnan(old), np.nan, new > RISE * old)


def _consumed(events: Events) -> Events:
    return events.filter(events.weight > 0)


def _about(items: Items, words: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Mask of the items whose text contains one of the words, [items]."""
    wanted = {word for text in words for word in words_of(text)}
    return np.array([not wanted.isdisjoint(words_of(text)) for text in items.text], np.bool_)


def _means(events: Events, of: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean of each user's values, [users]; NaN values are skipped; unknown without values."""
    count = np.bincount(events.user, ~np.isnan(of), minlength=len(events))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.bincount(events.user, np.nan_to_num(of), minlength=len(events)) / count)


def _when(before: Events, after: Events) -> list[str]:
    """Part of the horizon in which each user first consumes an item, as text."""
    consumed = after.filter(after.weight > 0)
    first = np.full(len(consumed), consumed.now)
    first[consumed.lengths > 0] = consumed.ts[consumed.offsets[:-1][consumed.lengths > 0]]
    soon = first < before.now + _SOON * (after.now - before.now)
    return ["soon" if early else "later" for early in soon]


def _next(before: Events, after: Events, items: Items) -> list[str]:
    """First words of the first distinct items that each user consumed."""
    consumed = after.filter(after.weight > 0)
    texts = []
    for user in range(len(consumed)):
        chosen = dict.fromkeys(consumed.item[consumed.offsets[user] : consumed.offsets[user + 1]].tolist())
        titles = [" ".join(words_of(items.text[item])[:WORDS_EACH]) for item in list(chosen)[:_NEXT_ITEMS]]
        texts.append(" ".join(titles) if before.lengths[user] else "")
    return texts
