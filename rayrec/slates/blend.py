"""The final score of a candidate: what the retrievers, the prior and the LLM say, weighed as past days teach.

Linear in few features, learned by conditional logit on days before the date (see `fit`):
- of the item (the prior): log popularity faded at several half-lives, log age, log days since its last event,
- of each personal retriever: x and log(max(x, 0) + 0.3), with x its score over the root mean square of the user's own,
- the LLM's log-probability; a candidate without one gets the user's lowest,
- products of some of these with traits of the user: newcomers lean on the prior more than others do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayrec.contracts.ragged import Ragged
from rayrec.slates import traits
from rayrec.slates.conditional_logit import fit_conditional_logit
from rayrec.slates.lift import held

LLM = "llm"
FLOOR = np.float32(0.3)
CROSSED = ("log_decayed_1d", "log_decayed_8d", "log_age", "log_count")  # item features crossed with the traits
L2 = 1e-3

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Prior:
    """What is known of each item on a date, whoever the user is."""

    names: tuple[str, ...]
    values: Floats  # [items, len(names)]
    cut: int  # microseconds UTC

    def column(self, name: str) -> Floats:
        return self.values[:, self.names.index(name)]


@dataclass(frozen=True)
class Weights:
    """One weight a feature, by name; features that are not named weigh 0. `centre`: the traits' means in learning,
    `level`: that of the LLM's scores, where it says neither yes nor no."""

    by_name: Mapping[str, float]
    centre: tuple[float, ...]
    level: float = 0.0


@dataclass(frozen=True)
class Blend:
    """`plain` orders candidates without an LLM's scores, `with_llm` those that have them, and `asked` those of users
    who ask for something: then the LLM knows what the retrievers do not."""

    personal: tuple[str, ...]  # sources whose scores are the user's own
    plain: Weights
    with_llm: Weights | None = None
    asked: Weights | None = None

    @classmethod
    def default(cls, personal: Sequence[str], prior: Sequence[str] = ()) -> Self:
        """Where nothing could be learned: retrievers together, the LLM, and half of the prior, equally."""
        by_name = {f"log {name}": 1 / len(personal) for name in personal}
        by_name |= {name: 0.5 for name in prior if name == "log_decayed_8d"}
        centre = (0.0,) * len(traits.NAMES)
        return cls(tuple(personal), Weights(by_name, centre), Weights({**by_name, LLM: 1.0}, centre))

    def scores(self, table: pa.Table, prior: Prior, lift: int | None = None) -> Ragged:
        """The score of each candidate, ragged float32, from candidate_schema or reranked_schema rows.

        A bool column `asked` says who asks for something; without one, nobody does. `lift`: so many places the LLM may
        lift a candidate above where the same weights put it without the LLM, and no more; None: any (see lift.py).

        Depends on each row alone. A user whose prompt failed (no LLM score at all) is ordered by `plain`.
        """
        candidate = Ragged.from_arrow(table["candidate"])
        user = traits.traits(table, prior.column("log_age"), prior.cut)
        own = {name: relative(Ragged.from_arrow(table[f"score.{name}"])) for name in self.personal}
        result = self._weighed(self.plain, candidate, own, None, user, prior)
        if self.with_llm is not None and f"score.{LLM}" in table.column_names:
            given = Ragged.from_arrow(table[f"score.{LLM}"])
            llm, known = filled(given)

            def ordered(weights: Weights) -> Floats:
                if lift is None:
                    return self._weighed(weights, candidate, own, llm, user, prior)
                free = candidate.like(self._weighed(weights, candidate, own, None, user, prior))
                moved = self._weighed(weights, candidate, own, llm - np.float32(weights.level), user, prior)
                return held(free, moved, np.isfinite(given.values), lift)

            result = np.where(np.repeat(known, candidate.lengths), ordered(self.with_llm), result)
            asked = _asked(table)
            if self.asked is not None and asked.any():
                result = np.where(np.repeat(known & asked, candidate.lengths), ordered(self.asked), result)
        return candidate.like(result)

    def _weighed(
        self,
        weights: Weights,
        candidate: Ragged,
        own: Mapping[str, Floats],
        llm: Floats | None,
        user: Floats,
        prior: Prior,
    ) -> Floats:
        """The products of item features and weights are summed per item, once, before they meet the candidates."""
        get = weights.by_name.get
        user = user - np.array(weights.centre, np.float32)
        of_item = prior.values @ np.array([get(name, 0.0) for name in prior.names], np.float32)
        result: Floats = of_item[candidate.values]
        for number, trait in enumerate(traits.NAMES):
            crossed = [(prior.column(name), get(f"{name} x {trait}", 0.0)) for name in _crossed(prior)]
            if any(weight for _, weight in crossed):
                slope = sum((column * np.float32(weight) for column, weight in crossed), np.zeros_like(of_item))
                result += slope[candidate.values] * np.repeat(user[:, number], candidate.lengths)
        for name, score in own.items():
            if weight := get(name, 0.0):
                result += np.float32(weight) * score
            if weight := get(f"log {name}", 0.0):
                result += np.float32(weight) * logged(score)
        if llm is not None:
            result += np.float32(get(LLM, 0.0)) * llm
            result += np.float32(get(f"{LLM} x events", 0.0)) * llm * np.repeat(user[:, 0], candidate.lengths)
        return result

    def to_plain(self) -> dict[str, Any]:
        """As plain JSON content: an artefact's meta data."""
        parts = {"plain": self.plain, "with_llm": self.with_llm, "asked": self.asked}
        named = {key: part and {**asdict(part), "by_name": dict(part.by_name)} for key, part in parts.items()}
        return {"personal": list(self.personal), **named}

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> Self:
        def weights(part: Mapping[str, Any] | None) -> Weights | None:
            if part is None:
                return None
            return Weights(dict(part["by_name"]), tuple(part["centre"]), float(part.get("level", 0.0)))

        plain = weights(content["plain"])
        if plain is None:
            raise ValueError("a blend needs plain weights")
        return cls(tuple(content["personal"]), plain, weights(content["with_llm"]), weights(content["asked"]))


@dataclass(frozen=True)
class Lesson:
    """Candidates as of an earlier cut, and which of them the user then took."""

    table: pa.Table  # candidate_schema, or reranked_schema with `score.llm`
    taken: Ragged  # bool, aligned with `candidate`
    prior: Prior

    def where(self, rows: npt.NDArray[np.bool_]) -> Lesson:
        """These rows [rows] alone."""
        if rows.all():
            return self
        return Lesson(
            self.table.filter(pa.array(rows)).combine_chunks(), self.taken.take(np.flatnonzero(rows)), self.prior
        )


def fit(lessons: Sequence[Lesson], personal: Sequence[str], l2: float = L2) -> Blend:
    """Weights from past days. Users who took none of their candidates are left out; what they took beside is dropped.

    With fewer than 20 users to learn from, the default is returned. Rows that ask for something (column `asked`) teach
    the weights of those who ask, and nothing else.
    """
    named = tuple(personal)
    asking = [lesson.where(_asked(lesson.table)) for lesson in lessons]
    lessons = [lesson.where(~_asked(lesson.table)) for lesson in lessons]
    plain = _fit(lessons, named, False, l2)
    if plain is None:
        return Blend.default(named, lessons[0].prior.names if lessons else ())
    if not all(f"score.{LLM}" in lesson.table.column_names for lesson in lessons):
        return Blend(named, plain)
    return Blend(named, plain, _fit(lessons, named, True, l2), _fit(asking, named, True, l2))


def _asked(table: pa.Table) -> npt.NDArray[np.bool_]:
    if "asked" not in table.column_names:
        return np.zeros(len(table), np.bool_)
    asked: npt.NDArray[np.bool_] = table["asked"].to_numpy()
    return asked


_FEWEST = 20  # users


def _fit(lessons: Sequence[Lesson], personal: tuple[str, ...], llm: bool, l2: float) -> Weights | None:
    usable = [lesson for lesson in (_useful(lesson, llm) for lesson in lessons) if len(lesson.table)]
    if sum(len(lesson.table) for lesson in usable) < _FEWEST:
        return None
    user = [traits.traits(lesson.table, lesson.prior.column("log_age"), lesson.prior.cut) for lesson in usable]
    centre = np.concatenate(user).mean(0, dtype=np.float64)
    parts = [features(le, personal, u - centre.astype(np.float32), llm) for le, u in zip(usable, user, strict=True)]
    names = list(parts[0])
    matrix = np.concatenate([np.stack([part[name] for name in names], axis=1) for part in parts])
    lengths = np.concatenate([lesson.taken.lengths for lesson in usable])
    taken = np.concatenate([_shared_mass(lesson.taken) for lesson in usable])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    weights = fit_conditional_logit(matrix, offsets, taken, l2)
    by_name = {name: float(weight) for name, weight in zip(names, weights, strict=True)}
    return Weights(by_name, tuple(centre.tolist()), _level(usable) if llm else 0.0)


def _level(lessons: Sequence[Lesson]) -> float:
    """The mean of the LLM's scores, over candidates that have one."""
    values = np.concatenate([Ragged.from_arrow(lesson.table[f"score.{LLM}"]).values for lesson in lessons])
    return float(values[np.isfinite(values)].mean(dtype=np.float64))


def _useful(lesson: Lesson, llm: bool) -> Lesson:
    hits = np.bincount(lesson.taken.rows, lesson.taken.values, minlength=len(lesson.taken))
    some = hits > 0
    if llm:
        some &= filled(Ragged.from_arrow(lesson.table[f"score.{LLM}"]))[1]
    return lesson.where(some)


def _shared_mass(taken: Ragged) -> Floats:
    """A user who took n items weighs sqrt(n) (up to 10 items), not n: many do not drown few."""
    hits = np.bincount(taken.rows, taken.values, minlength=len(taken))
    mass: Floats = (taken.values / np.sqrt(np.clip(hits, 1, 10))[taken.rows]).astype(np.float32)
    return mass


def features(lesson: Lesson, personal: Sequence[str], user: Floats, llm: bool) -> dict[str, Floats]:
    """Every feature of every candidate, [candidates], by name; `user` are centred traits. Scores are sums of these."""
    candidate, prior = Ragged.from_arrow(lesson.table["candidate"]), lesson.prior
    found = {name: prior.column(name)[candidate.values] for name in prior.names}
    for number, trait in enumerate(traits.NAMES):
        spread = np.repeat(user[:, number], candidate.lengths)
        found.update({f"{name} x {trait}": found[name] * spread for name in _crossed(prior)})
    for name in personal:
        score = relative(Ragged.from_arrow(lesson.table[f"score.{name}"]))
        found[name], found[f"log {name}"] = score, logged(score)
    if llm:
        score = filled(Ragged.from_arrow(lesson.table[f"score.{LLM}"]))[0]
        found[LLM], found[f"{LLM} x events"] = score, score * np.repeat(user[:, 0], candidate.lengths)
    return found


def relative(scores: Ragged) -> Floats:
    """Each score over the root mean square of its row's: retrievers differ in scale from user to user."""
    square = np.bincount(scores.rows, np.square(scores.values, dtype=np.float64), minlength=len(scores))
    size = np.sqrt(square / np.maximum(scores.lengths, 1))
    scale = np.where(size > 1e-12, 1 / np.maximum(size, 1e-12), 0).astype(np.float32)
    result: Floats = scores.values * np.repeat(scale, scores.lengths)
    return result


def logged(score: Floats) -> Floats:
    result: Floats = np.log(np.maximum(score, 0) + FLOOR)
    return result


def filled(llm: Ragged) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Scores with the row's lowest in place of missing ones, and which rows [users] have any score at all."""
    finite = np.isfinite(llm.values)
    known = np.bincount(llm.rows, finite, minlength=len(llm)) > 0
    lowest = np.full(len(llm), np.inf, np.float32)
    np.minimum.at(lowest, llm.rows[finite], llm.values[finite])
    lowest[~known] = 0
    return np.where(finite, llm.values, np.repeat(lowest, llm.lengths)).astype(np.float32), known


def _crossed(prior: Prior) -> tuple[str, ...]:
    return tuple(name for name in CROSSED if name in prior.names)
