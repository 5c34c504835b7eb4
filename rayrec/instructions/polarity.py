"""Whether a sentence refuses what it names: a linear model for the turns of phrase that no list of negations has.

    s        [v, W n] . b + c      v: the encoder's vector of the sentence, its facet names replaced by "things"
                                   n: its words and pairs of words, scaled to length 1
    b, c     weighted ridge regression of +1 (refusals) and -1 (others) on `polarity_sentences.yaml`, in closed form
    refused  the 95th percentile of s over sentences that do not refuse, in a cross-validation that holds out whole
             turns of phrase; unsure: the 90th

It decides only where no rule of `negation` does. Between the thresholds nothing is better than the wrong sign. The
weights for the packaged encoder are in `polarity_weights.json`, written by `python -m rayrec.instructions.polarity`;
for another encoder they are fitted at first use (1,500 short sentences to encode).
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from typing import Any

import numpy as np
import yaml

from rayrec.instructions.negation import scopes
from rayrec.instructions.negation_forms import is_affirmative, request_words
from rayrec.numerics.hashing import digest
from rayrec.numerics.types import Float32s, Float64s

MASK = "things"
_RIDGE, _WORDS_SCALE = 1e-3, 0.5
_REFUSED, _UNSURE = 95, 90  # percentiles
_FOLDS = 10
_WORD = re.compile(r"\w+")
_SENTENCES, _WEIGHTS = "polarity_sentences.yaml", "polarity_weights.json"

Encode = Callable[[Sequence[str]], Float32s]  # texts [n] -> vectors [n, d]


@dataclass(frozen=True)
class Polarity:
    """A sentence that scores `refused` or more refuses; from `unsure` on it may."""

    vector: Sequence[float]  # [d]
    words: Mapping[str, float]
    bias: float
    refused: float
    unsure: float

    def score(self, sentence: str, vector: Float32s) -> float:
        """`vector` [d]: of the sentence with its facet names masked."""
        terms = _terms(sentence)
        known = sum(self.words.get(term, 0.0) for term in sorted(terms))
        by_vector = float(np.asarray(self.vector) @ vector.astype(np.float64))
        return by_vector + known / float(np.sqrt(len(terms))) + self.bias


def polarity_of(encode: Encode, encoder_digest: str) -> Polarity:
    """The packaged weights if they are of this encoder, else fitted ones."""
    packaged = _content(_WEIGHTS)
    if packaged["encoder"] != encoder_digest:
        return fit(encode)
    return Polarity(**{field.name: packaged[field.name] for field in fields(Polarity)})


def is_decided(sentence: str) -> bool:
    """Whether the rules of `negation` find a negation in a sentence, or that there is none despite its words."""
    return is_affirmative(sentence) or any(scopes(request_words(sentence)).cue)


def fit(encode: Encode) -> Polarity:
    """The model of `polarity_sentences.yaml` for an encoder."""
    content = _content(_SENTENCES)
    groups = [(sign, group) for sign, name in ((1.0, "refusals"), (-1.0, "others")) for group in content[name]]
    texts = [text.replace("{x}", MASK) for _, group in groups for text in group]
    sign = np.array([sign for sign, group in groups for _ in group])
    group_of = np.array([number for number, (_, group) in enumerate(groups) for _ in group])
    terms = [_terms(text) for text in texts]
    held = Counter(term for own in terms for term in own)
    known = sorted(term for term, count in held.items() if count > 1)
    column = {term: number for number, term in enumerate(known)}
    words = np.zeros((len(texts), len(known)))
    for row, own in enumerate(terms):
        words[row, [column[term] for term in own if term in column]] = _WORDS_SCALE / len(own) ** 0.5
    inputs = np.concatenate([encode(texts).astype(np.float64), words], 1)
    # Groups alternate between the folds; a sentence is scored by the fit that has seen none of its group.
    scores, fold = np.empty(len(texts)), group_of % _FOLDS
    for number in range(_FOLDS):
        weights, bias = _ridge(inputs[fold != number], sign[fold != number])
        scores[fold == number] = inputs[fold == number] @ weights + bias
    undecided = np.array([not is_decided(text) for text in texts])
    unsure, refused = np.percentile(scores[(sign < 0) & undecided], (_UNSURE, _REFUSED))
    weights, bias = _ridge(inputs, sign)
    width = inputs.shape[1] - len(known)
    scaled = _WORDS_SCALE * weights[width:]
    by_word = dict(zip(known, scaled.tolist(), strict=True))
    return Polarity(weights[:width].tolist(), by_word, bias, float(refused), float(unsure))


def sentences_digest() -> str:
    """Of the sentences that the weights are fitted on."""
    return digest([_text(_SENTENCES)])


def _ridge(inputs: Float64s, sign: Float64s) -> tuple[Float64s, float]:
    """Weights [d] and bias of the ridge regression in which both signs weigh the same."""
    weight = np.where(sign > 0, 0.5 / (sign > 0).sum(), 0.5 / (sign < 0).sum())
    centre, middle = weight @ inputs, weight @ sign
    centred = inputs - centre
    # In the dual there are fewer unknowns: rows, not columns.
    root = np.sqrt(weight)
    rows = root[:, None] * centred
    gram = rows @ rows.T + _RIDGE * np.eye(len(rows))
    found = rows.T @ np.linalg.solve(gram, root * (sign - middle))
    return found, float(middle - centre @ found)


def _terms(text: str) -> set[str]:
    words = ["<", *_WORD.findall(text.lower()), ">"]
    return {*words, *(f"{one} {other}" for one, other in pairwise(words))}


@lru_cache(maxsize=2)
def _text(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf8")


def _content(name: str) -> dict[str, Any]:
    found: dict[str, Any] = (json.loads if name.endswith(".json") else yaml.safe_load)(_text(name))
    return found


def main() -> int:
    """Print the weights for the packaged encoder."""
    from rayrec.text_encoding.sentence_encoder import SentenceEncoder

    encoder = SentenceEncoder.open("auto")
    found = asdict(fit(encoder.encode))
    rounded = {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in found.items()
        if name not in ("vector", "words")
    }
    rounded["vector"] = [round(value, 3) for value in found["vector"]]
    rounded["words"] = {term: round(value, 3) for term, value in found["words"].items() if abs(value) >= 0.01}
    print(json.dumps({"encoder": encoder.digest, "sentences": sentences_digest(), **rounded}, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
