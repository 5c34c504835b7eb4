"""Soft facet weights of a text: how likely it means each facet, by a sentence encoder.

    v        mean vector of the text's sentences; u_f of a facet's; n_j of neutral ones; all scaled to length 1
    p_f      softmax over the facets of a kind of (v . u_f) / TEMPERATURE; weights below MIN_WEIGHT are 0
    silent   max_f v . u_f < MIN_SIMILARITY, or max_f v . u_f < max_j v . n_j + margin

The margin is the 95th percentile, over the neutral sentences, of what they exceed their nearest other neutral sentence
by: of sentences that ask for nothing, 5% pass. Categories and other attribute values are compared each in one softmax;
words of titles only where a catalogue has neither. Decades and bounds are numbers, which rules read better. The
constants were chosen on requests written for that purpose (benchmarks/notes/requests.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from rayrec.instructions.facet_scheme import CATEGORY, VALUE, WORD, FacetScheme
from rayrec.instructions.facet_sentences import FacetSentences
from rayrec.numerics.types import Float32s

TEMPERATURE = 0.03
MIN_SIMILARITY, MIN_MARGIN, QUANTILE = 0.33, 0.04, 95
MIN_WEIGHT = 0.1

Encode = Callable[[Sequence[str]], Float32s]  # texts [n] -> vectors [n, d]
SoftWeights = dict[int, float]  # facet -> weight in (0, 1]


@dataclass(frozen=True)
class _Group:
    """The facets of one kind."""

    facets: tuple[int, ...]
    vectors: Float32s  # [facets, d]
    margin: float


@dataclass(frozen=True)
class SoftFacets:
    """Maps texts to soft facet weights. A text's weights do not depend on the other texts."""

    encode: Encode
    sentences: FacetSentences
    neutral: Float32s  # [sentences, d]
    groups: tuple[_Group, ...]

    @classmethod
    def of(cls, encode: Encode, scheme: FacetScheme, sentences: FacetSentences) -> Self:
        neutral = np.stack([_mean(encode(sentences.requests(text))) for text in sentences.neutral])
        groups = []
        for kind in compared_kinds(scheme):
            facets = tuple(number for number, own in enumerate(scheme.kind) if own == kind)
            parts = (sentences.facets(scheme.name[facet]) for facet in facets)
            vectors = np.stack([_mean(np.stack([_mean(encode(group)) for group in part])) for part in parts])
            groups.append(_Group(facets, vectors, _margin(neutral, vectors)))
        return cls(encode, sentences, neutral, tuple(groups))

    def __call__(self, text: str) -> SoftWeights:
        """The weights of the facets that the text means; empty if it means none."""
        vector = _mean(self.encode(self.sentences.requests(text)))
        nearest, found = float((self.neutral @ vector).max()), SoftWeights()
        for group in self.groups:
            near = group.vectors @ vector
            best = float(near.max())
            if best < max(MIN_SIMILARITY, nearest + group.margin):
                continue
            odds = np.exp((near - best) / TEMPERATURE)
            share = odds / odds.sum()
            found |= {group.facets[n]: float(share[n]) for n in np.flatnonzero(share >= MIN_WEIGHT)}
        return found


def compared_kinds(scheme: FacetScheme) -> tuple[str, ...]:
    """The kinds of facets that texts are compared with."""
    named = tuple(kind for kind in (CATEGORY, VALUE) if kind in scheme.kind)
    return named or tuple(kind for kind in (WORD,) if kind in scheme.kind)


def _margin(neutral: Float32s, vectors: Float32s) -> float:
    """How far neutral sentences exceed their nearest other neutral sentence."""
    among = neutral @ neutral.T
    np.fill_diagonal(among, -1)
    excess = (neutral @ vectors.T).max(1) - among.max(1)
    return max(MIN_MARGIN, float(np.percentile(excess, QUANTILE)))


def _mean(vectors: Float32s) -> Float32s:
    """The mean of vectors [n, d], scaled to length 1; 0 for a zero mean."""
    total = vectors.sum(0, dtype=np.float64)
    return np.asarray(total / max(float(np.linalg.norm(total)), 1e-12), np.float32)
