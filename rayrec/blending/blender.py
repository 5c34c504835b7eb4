"""The blender: the final score of a candidate, a weighted sum of retriever, item and LLM features.

`blend_fitting` fits the weights on training windows before the date; `blend_features` computes the features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa

from rayrec.blending.acceptance import AcceptanceCurve
from rayrec.blending.blend_features import (
    LLM,
    USER_FEATURES,
    ItemFeatures,
    content_feature,
    impute_missing,
    log_feature,
    rms_normalised,
    user_features,
)
from rayrec.blending.rank_promotion_cap import cap_promotion
from rayrec.blending.score_correction import BLENDING_METHODS, ScoreCorrection
from rayrec.data.schemas import CONTENT
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.types import Bools, Float32s

REQUEST_MATCH = "request_match"  # column: what a user's instruction adds to each candidate's score, nats


@dataclass(frozen=True)
class BlenderWeights:
    """Weights by feature name; all other features have weight 0.

    `feature_means`: means of the user features in training. `llm_mean`: the mean LLM score, used as the neutral score.
    """

    by_name: Mapping[str, float]
    feature_means: tuple[float, ...]
    llm_mean: float = 0.0


@dataclass(frozen=True)
class ScorerGain:
    """How much a scorer helps on held-out users: the gain in log-likelihood a user, with its bootstrap interval."""

    scorer: str
    gain: float
    low: float
    high: float
    users: int  # distinct held-out users that it was measured on
    entered: bool
    l2_factor: float | None = 1.0  # of its L2 penalty; None if it has not entered
    request: bool = False  # of users with a request


@dataclass(frozen=True)
class Blender:
    """The blender's weights: without LLM scores (`without_llm`), with them (`with_llm`), and with them for users with a
    request (`with_request`), which retrievers ignore.

    Without `with_llm` the LLM has not entered the blend; then it counts for users with a request at most.
    """

    personalized: tuple[str, ...]  # sources with scores per user
    without_llm: BlenderWeights
    with_llm: BlenderWeights | None = None
    with_request: BlenderWeights | None = None
    content: tuple[str, ...] = ()  # content features
    gains: tuple[ScorerGain, ...] = ()  # empty for default weights
    correction: ScoreCorrection | None = None  # of a blending method other than `logit`; added to all scores
    feedback: Mapping[str, float] = field(default_factory=dict)  # counts of the feedback it has learned from
    acceptance: AcceptanceCurve | None = None  # if an arm has `slate.min_probability`, and there were examples

    @classmethod
    def default(cls, personalized: Sequence[str], item_features: Sequence[str] = ()) -> Self:
        """Default weights without training: all retrievers equally, the LLM, and half of the 8-day popularity."""
        by_name = {f"log {name}": 1 / len(personalized) for name in personalized}
        by_name |= {name: 0.5 for name in item_features if name == "log_decayed_8d"}
        feature_means = (0.0,) * len(USER_FEATURES)
        return cls(
            tuple(personalized),
            BlenderWeights(by_name, feature_means),
            BlenderWeights({**by_name, LLM: 1.0}, feature_means),
        )

    def scores(self, table: pa.Table, item_features: ItemFeatures, max_promotion: int | None = None) -> Ragged:
        """Score each candidate of candidate_schema or scored rows, ragged float32; rows are independent.

        The bool column `has_request` marks users with a request; if it is missing, no user has one. The optional ragged
        column `request_match` is added to all scores, those that bound the rank promotion included. `max_promotion`:
        how many ranks the LLM may move a candidate up from its rank without the LLM (see `rank_promotion_cap`); None:
        no limit. Users without any LLM score (failed prompts) get the scores of `without_llm`.
        """
        candidate = Ragged.from_arrow(table["candidate"])
        user = user_features(table, item_features)
        own = {name: rms_normalised(Ragged.from_arrow(table[f"score.{name}"])) for name in self.personalized}
        own |= {name: content_feature(table, name) for name in self._content_columns}
        match = Ragged.from_arrow(table[REQUEST_MATCH]).values if REQUEST_MATCH in table.column_names else np.float32(0)
        if self.correction is not None:
            match = match + self.correction(table, item_features)

        def weighted(weights: BlenderWeights, llm: Float32s | None) -> Float32s:
            total: Float32s = self._weighted_sum(weights, candidate, own, llm, user, item_features) + match
            return total

        result = weighted(self.without_llm, None)
        if "llm_score" not in table.column_names:
            return candidate.like(result)
        llm_score = Ragged.from_arrow(table["llm_score"])
        llm, known = impute_missing(llm_score)

        def with_llm(weights: BlenderWeights) -> Float32s:
            if max_promotion is None:
                return weighted(weights, llm)
            base = candidate.like(weighted(weights, None))
            promoted = weighted(weights, llm - np.float32(weights.llm_mean))
            return cap_promotion(base, promoted, np.isfinite(llm_score.values), max_promotion)

        if self.with_llm is not None:
            result = np.where(np.repeat(known, candidate.lengths), with_llm(self.with_llm), result)
        requesting = has_request(table)
        if self.with_request is not None and requesting.any():
            result = np.where(np.repeat(known & requesting, candidate.lengths), with_llm(self.with_request), result)
        return candidate.like(result)

    @property
    def _content_columns(self) -> tuple[str, ...]:
        """The columns of content features that have a weight."""
        parts = [part for part in (self.without_llm, self.with_llm, self.with_request) if part is not None]
        names = (f"{CONTENT}{name}" for name in self.content)
        return tuple(name for name in names if any(part.by_name.get(name) for part in parts))

    def _weighted_sum(
        self,
        weights: BlenderWeights,
        candidate: Ragged,
        own: Mapping[str, Float32s],
        llm: Float32s | None,
        user: Float32s,
        item_features: ItemFeatures,
    ) -> Float32s:
        """Weighted sum of the features. Item terms are summed once per item instead of once per candidate."""
        get = weights.by_name.get
        user = user - np.array(weights.feature_means, np.float32)
        of_item = item_features.values @ np.array([get(name, 0.0) for name in item_features.names], np.float32)
        result: Float32s = of_item[candidate.values]
        for number, feature in enumerate(USER_FEATURES):
            crossed = [(item_features.column(name), get(f"{name} x {feature}", 0.0)) for name in item_features.crossed]
            if any(weight for _, weight in crossed):
                slope = sum((column * np.float32(weight) for column, weight in crossed), np.zeros_like(of_item))
                result += slope[candidate.values] * np.repeat(user[:, number], candidate.lengths)
        for name, score in own.items():
            if weight := get(name, 0.0):
                result += np.float32(weight) * score
            if name in self.personalized and (weight := get(f"log {name}", 0.0)):
                result += np.float32(weight) * log_feature(score)
        if llm is not None:
            result += np.float32(get(LLM, 0.0)) * llm
            result += np.float32(get(f"{LLM} x events", 0.0)) * llm * np.repeat(user[:, 0], candidate.lengths)
        return result

    def to_dict(self) -> dict[str, Any]:
        """JSON content for the metadata of an artifact."""
        parts = {"without_llm": self.without_llm, "with_llm": self.with_llm, "with_request": self.with_request}
        named = {key: part and {**asdict(part), "by_name": dict(part.by_name)} for key, part in parts.items()}
        gains = [asdict(gain) for gain in self.gains]
        found = {"personalized": list(self.personalized), "content": list(self.content), "gains": gains, **named}
        if self.feedback:
            found["feedback"] = dict(self.feedback)
        if self.correction is not None:
            found["correction"] = {"method": self.correction.name, **self.correction.to_dict()}
        if self.acceptance is not None:
            found["acceptance"] = self.acceptance.to_dict()
        return found

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        def weights(part: Mapping[str, Any]) -> BlenderWeights:
            return BlenderWeights(dict(part["by_name"]), tuple(part["feature_means"]), float(part["llm_mean"]))

        with_llm, with_request = (content[name] and weights(content[name]) for name in ("with_llm", "with_request"))
        return cls(
            tuple(content["personalized"]),
            weights(content["without_llm"]),
            with_llm,
            with_request,
            tuple(content["content"]),
            tuple(ScorerGain(**gain) for gain in content["gains"]),
            BLENDING_METHODS.lookup(found["method"]).from_dict(found) if (found := content.get("correction")) else None,
            dict(content.get("feedback", {})),
            AcceptanceCurve.from_dict(curve) if (curve := content.get("acceptance")) else None,
        )


def has_request(table: pa.Table) -> Bools:
    """Which users [users] have a request."""
    if "has_request" not in table.column_names:
        return np.zeros(len(table), np.bool_)
    found: Bools = table["has_request"].to_numpy()
    return found
