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

from rayrec.blending import user_traits
from rayrec.blending.conditional_logit import fit_conditional_logit
from rayrec.blending.rank_promotion_cap import cap_promotion
from rayrec.numerics.ragged import Ragged

LLM = "llm"
LOG_OFFSET = np.float32(0.3)
CROSSED_FEATURES = ("log_decayed_1d", "log_decayed_8d", "log_age", "log_count")  # item features crossed with the traits
L2 = 1e-3

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ItemFeatures:
    """What is known of each item on a date, whoever the user is."""

    names: tuple[str, ...]
    values: Floats  # [items, len(names)]
    cutoff: int  # microseconds UTC

    def column(self, name: str) -> Floats:
        return self.values[:, self.names.index(name)]


@dataclass(frozen=True)
class BlenderWeights:
    """One weight a feature, by name; features that are not named weigh 0. `centre`: the traits' means in learning,
    `level`: that of the LLM's scores, where it says neither yes nor no."""

    by_name: Mapping[str, float]
    feature_means: tuple[float, ...]
    llm_mean: float = 0.0


@dataclass(frozen=True)
class Blender:
    """Weights for candidates without LLM scores (`without_llm`), with them (`with_llm`), and for users with a request
    (`with_request`): there the LLM knows what the retrievers do not."""

    personalized: tuple[str, ...]  # sources whose scores are the user's own
    without_llm: BlenderWeights
    with_llm: BlenderWeights | None = None
    with_request: BlenderWeights | None = None

    @classmethod
    def default(cls, personalized: Sequence[str], item_features: Sequence[str] = ()) -> Self:
        """Where nothing could be learned: retrievers together, the LLM, and half of the prior, equally."""
        by_name = {f"log {name}": 1 / len(personalized) for name in personalized}
        by_name |= {name: 0.5 for name in item_features if name == "log_decayed_8d"}
        feature_means = (0.0,) * len(user_traits.NAMES)
        return cls(
            tuple(personalized),
            BlenderWeights(by_name, feature_means),
            BlenderWeights({**by_name, LLM: 1.0}, feature_means),
        )

    def scores(self, table: pa.Table, item_features: ItemFeatures, max_promotion: int | None = None) -> Ragged:
        """The score of each candidate, ragged float32, from candidate_schema or scored_schema rows.

        A bool column `has_request` says who has a request; without one, nobody does. `max_promotion`: so many places the LLM
        may lift a candidate above where the same weights put it without the LLM, and no more; None: any (see lift.py).

        Depends on each row alone. A user whose prompt failed (no LLM score at all) is ordered by `plain`.
        """
        candidate = Ragged.from_arrow(table["candidate"])
        user = user_traits.user_features(table, item_features.column("log_age"), item_features.cutoff)
        own = {name: rms_normalised(Ragged.from_arrow(table[f"score.{name}"])) for name in self.personalized}
        result = self._weighed(self.without_llm, candidate, own, None, user, item_features)
        if self.with_llm is not None and "llm_score" in table.column_names:
            given = Ragged.from_arrow(table["llm_score"])
            llm, known = impute_missing(given)

            def ordered(weights: BlenderWeights) -> Floats:
                if max_promotion is None:
                    return self._weighed(weights, candidate, own, llm, user, item_features)
                free = candidate.like(self._weighed(weights, candidate, own, None, user, item_features))
                moved = self._weighed(weights, candidate, own, llm - np.float32(weights.llm_mean), user, item_features)
                return cap_promotion(free, moved, np.isfinite(given.values), max_promotion)

            result = np.where(np.repeat(known, candidate.lengths), ordered(self.with_llm), result)
            requesting = _has_request(table)
            if self.with_request is not None and requesting.any():
                result = np.where(np.repeat(known & requesting, candidate.lengths), ordered(self.with_request), result)
        return candidate.like(result)

    def _weighed(
        self,
        weights: BlenderWeights,
        candidate: Ragged,
        own: Mapping[str, Floats],
        llm: Floats | None,
        user: Floats,
        item_features: ItemFeatures,
    ) -> Floats:
        """The products of item features and weights are summed per item, once, before they meet the candidates."""
        get = weights.by_name.get
        user = user - np.array(weights.feature_means, np.float32)
        of_item = item_features.values @ np.array([get(name, 0.0) for name in item_features.names], np.float32)
        result: Floats = of_item[candidate.values]
        for number, trait in enumerate(user_traits.NAMES):
            crossed = [(item_features.column(name), get(f"{name} x {trait}", 0.0)) for name in _crossed(item_features)]
            if any(weight for _, weight in crossed):
                slope = sum((column * np.float32(weight) for column, weight in crossed), np.zeros_like(of_item))
                result += slope[candidate.values] * np.repeat(user[:, number], candidate.lengths)
        for name, score in own.items():
            if weight := get(name, 0.0):
                result += np.float32(weight) * score
            if weight := get(f"log {name}", 0.0):
                result += np.float32(weight) * log_feature(score)
        if llm is not None:
            result += np.float32(get(LLM, 0.0)) * llm
            result += np.float32(get(f"{LLM} x events", 0.0)) * llm * np.repeat(user[:, 0], candidate.lengths)
        return result

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON content: an artefact's meta data."""
        parts = {"without_llm": self.without_llm, "with_llm": self.with_llm, "with_request": self.with_request}
        named = {key: part and {**asdict(part), "by_name": dict(part.by_name)} for key, part in parts.items()}
        return {"personal": list(self.personalized), **named}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        def weights(part: Mapping[str, Any] | None) -> BlenderWeights | None:
            if part is None:
                return None
            return BlenderWeights(dict(part["by_name"]), tuple(part["feature_means"]), float(part["llm_mean"]))

        plain = weights(content["without_llm"])
        if plain is None:
            raise ValueError("a blend needs plain weights")
        return cls(tuple(content["personal"]), plain, weights(content["with_llm"]), weights(content["with_request"]))


@dataclass(frozen=True)
class TrainingWindow:
    """Candidates as of an earlier cut, and which of them the user then took."""

    table: pa.Table  # candidate_schema, or reranked_schema with `llm_score`
    consumed: Ragged  # bool, aligned with `candidate`
    item_features: ItemFeatures

    def where(self, rows: npt.NDArray[np.bool_]) -> TrainingWindow:
        """These rows [rows] alone."""
        if rows.all():
            return self
        return TrainingWindow(
            self.table.filter(pa.array(rows)).combine_chunks(),
            self.consumed.take(np.flatnonzero(rows)),
            self.item_features,
        )


def fit(windows: Sequence[TrainingWindow], personalized: Sequence[str], l2: float = L2) -> Blender:
    """Weights from past days. Users who took none of their candidates are left out; what they took beside is dropped.

    With fewer than 20 users to learn from, the default is returned. Rows with a request (column `has_request`) teach
    the weights of users with requests, and nothing else.
    """
    named = tuple(personalized)
    asking = [window.where(_has_request(window.table)) for window in windows]
    windows = [window.where(~_has_request(window.table)) for window in windows]
    plain = _fit(windows, named, False, l2)
    if plain is None:
        return Blender.default(named, windows[0].item_features.names if windows else ())
    if not all("llm_score" in window.table.column_names for window in windows):
        return Blender(named, plain)
    return Blender(named, plain, _fit(windows, named, True, l2), _fit(asking, named, True, l2))


def _has_request(table: pa.Table) -> npt.NDArray[np.bool_]:
    if "has_request" not in table.column_names:
        return np.zeros(len(table), np.bool_)
    found: npt.NDArray[np.bool_] = table["has_request"].to_numpy()
    return found


_FEWEST = 20  # users


def _fit(
    windows: Sequence[TrainingWindow], personalized: tuple[str, ...], llm: bool, l2: float
) -> BlenderWeights | None:
    usable = [window for window in (_useful(window, llm) for window in windows) if len(window.table)]
    if sum(len(window.table) for window in usable) < _FEWEST:
        return None
    user = [
        user_traits.user_features(window.table, window.item_features.column("log_age"), window.item_features.cutoff)
        for window in usable
    ]
    feature_means = np.concatenate(user).mean(0, dtype=np.float64)
    parts = [
        features(le, personalized, u - feature_means.astype(np.float32), llm)
        for le, u in zip(usable, user, strict=True)
    ]
    names = list(parts[0])
    matrix = np.concatenate([np.stack([part[name] for name in names], axis=1) for part in parts])
    lengths = np.concatenate([window.consumed.lengths for window in usable])
    consumed = np.concatenate([_shared_mass(window.consumed) for window in usable])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    weights = fit_conditional_logit(matrix, offsets, consumed, l2)
    by_name = {name: float(weight) for name, weight in zip(names, weights, strict=True)}
    return BlenderWeights(by_name, tuple(feature_means.tolist()), _level(usable) if llm else 0.0)


def _level(windows: Sequence[TrainingWindow]) -> float:
    """The mean of the LLM's scores, over candidates that have one."""
    values = np.concatenate([Ragged.from_arrow(window.table["llm_score"]).values for window in windows])
    return float(values[np.isfinite(values)].mean(dtype=np.float64))


def _useful(window: TrainingWindow, llm: bool) -> TrainingWindow:
    hits = np.bincount(window.consumed.rows, window.consumed.values, minlength=len(window.consumed))
    some = hits > 0
    if llm:
        some &= impute_missing(Ragged.from_arrow(window.table["llm_score"]))[1]
    return window.where(some)


def _shared_mass(consumed: Ragged) -> Floats:
    """A user who took n items weighs sqrt(n) (up to 10 items), not n: many do not drown few."""
    hits = np.bincount(consumed.rows, consumed.values, minlength=len(consumed))
    mass: Floats = (consumed.values / np.sqrt(np.clip(hits, 1, 10))[consumed.rows]).astype(np.float32)
    return mass


def features(window: TrainingWindow, personalized: Sequence[str], user: Floats, llm: bool) -> dict[str, Floats]:
    """Every feature of every candidate, [candidates], by name; `user` are centred traits. Scores are sums of these."""
    candidate, item_features = Ragged.from_arrow(window.table["candidate"]), window.item_features
    found = {name: item_features.column(name)[candidate.values] for name in item_features.names}
    for number, trait in enumerate(user_traits.NAMES):
        spread = np.repeat(user[:, number], candidate.lengths)
        found.update({f"{name} x {trait}": found[name] * spread for name in _crossed(item_features)})
    for name in personalized:
        score = rms_normalised(Ragged.from_arrow(window.table[f"score.{name}"]))
        found[name], found[f"log {name}"] = score, log_feature(score)
    if llm:
        score = impute_missing(Ragged.from_arrow(window.table["llm_score"]))[0]
        found[LLM], found[f"{LLM} x events"] = score, score * np.repeat(user[:, 0], candidate.lengths)
    return found


def rms_normalised(scores: Ragged) -> Floats:
    """Each score over the root mean square of its row's: retrievers differ in scale from user to user."""
    square = np.bincount(scores.rows, np.square(scores.values, dtype=np.float64), minlength=len(scores))
    size = np.sqrt(square / np.maximum(scores.lengths, 1))
    scale = np.where(size > 1e-12, 1 / np.maximum(size, 1e-12), 0).astype(np.float32)
    result: Floats = scores.values * np.repeat(scale, scores.lengths)
    return result


def log_feature(score: Floats) -> Floats:
    result: Floats = np.log(np.maximum(score, 0) + LOG_OFFSET)
    return result


def impute_missing(llm: Ragged) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Scores with the row's lowest in place of missing ones, and which rows [users] have any score at all."""
    finite = np.isfinite(llm.values)
    known = np.bincount(llm.rows, finite, minlength=len(llm)) > 0
    lowest = np.full(len(llm), np.inf, np.float32)
    np.minimum.at(lowest, llm.rows[finite], llm.values[finite])
    lowest[~known] = 0
    return np.where(finite, llm.values, np.repeat(lowest, llm.lengths)).astype(np.float32), known


def _crossed(item_features: ItemFeatures) -> tuple[str, ...]:
    return tuple(name for name in CROSSED_FEATURES if name in item_features.names)
