"""The vocabulary of views, instructions and answers.

    0 | known words ... | hash buckets ... | fields ... | items ...
      `---- language model vocabulary ---'

Known words come from instructions, answers and item texts; any other word maps to a hash bucket. Fields (`age:3`) and
items (`item:85123A`) have ids beyond those, so that no catalogue text can be read as one of them. The language model
reads and writes words and hash buckets only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from rayrec.numerics.hashing import derive_seed

PAD = 0
BUCKETS = 32  # per numeric field: half an octave each
HASHED = 64  # buckets of unknown words
_WORD = re.compile(r"\w+")
_MAX_WORD = 40  # characters


def words_of(text: str) -> list[str]:
    """Lower-case words of a text, in order."""
    return [word[:_MAX_WORD] for word in _WORD.findall(text.casefold())]


def bucket(number: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Bucket of each number, in [0, BUCKETS): 2 log2(1 + |x|), mirrored below 0 and clipped."""
    x = np.asarray(number, np.float64)
    octave = np.floor(2 * np.log2(1 + np.abs(np.nan_to_num(x)))).astype(np.int64)
    return np.clip(np.where(x < 0, -octave, octave) + 4, 0, BUCKETS - 1)


@dataclass(frozen=True)
class Vocabulary:
    """Word ids. `known`: known words; `fields`: numeric fields; `items`: ids of the items with a token."""

    known: tuple[str, ...]
    fields: tuple[str, ...]
    items: tuple[str, ...]

    @classmethod
    def learn(
        cls, texts: Iterable[str], always: Iterable[str], fields: Sequence[str], items: Iterable[str], min_texts: int
    ) -> Vocabulary:
        """Build the vocabulary: all words of `always`, and those in at least `min_texts` of `texts`, in any order."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(set(words_of(text)))
        known = {word for text in always for word in words_of(text)}
        known |= {word for word, count in counts.items() if count >= min_texts}
        return cls(tuple(sorted(known)), tuple(fields), tuple(sorted(items)))

    @cached_property
    def lm_size(self) -> int:
        """Vocabulary size of the language model: it reads and writes the ids in [0, lm_size)."""
        return 1 + len(self.known) + HASHED

    @property
    def size(self) -> int:
        return self.lm_size + BUCKETS * len(self.fields) + len(self.items)

    def ids(self, text: str) -> list[int]:
        """Ids of a text's words."""
        return [self._place.get(word) or self._hashed(word) for word in words_of(text)]

    def field(self, name: str, number: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Ids of numbers by bucket, in the same shape; PAD for NaN."""
        ids = self.lm_size + self._field[name] * BUCKETS + bucket(number)
        return np.where(np.isnan(np.asarray(number, np.float64)), PAD, ids)

    def field_exact(self, name: str, number: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
        """Ids of integers in [0, BUCKETS), one id per integer."""
        return self.lm_size + self._field[name] * BUCKETS + number.astype(np.int64)

    def item_tokens(self, item_ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Token of each item, [items]; PAD for items without one."""
        place = {item: self.size - len(self.items) + k for k, item in enumerate(self.items)}
        return np.array([place.get(item, PAD) for item in item_ids], np.int64)

    def text_matrix(self, texts: Sequence[str], max_words: int) -> npt.NDArray[np.int64]:
        """The first words of each text, [texts, max_words], padded with PAD."""
        out = np.full((len(texts), max_words), PAD, np.int64)
        for row, text in enumerate(texts):
            ids = self.ids(text)[:max_words]
            out[row, : len(ids)] = ids
        return out

    def as_json(self) -> dict[str, Any]:
        return {"known": list(self.known), "fields": list(self.fields), "items": list(self.items)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Vocabulary:
        return cls(tuple(content["known"]), tuple(content["fields"]), tuple(content["items"]))

    @cached_property
    def _place(self) -> dict[str, int]:
        return {word: k for k, word in enumerate(self.known, 1)}

    @cached_property
    def _field(self) -> dict[str, int]:
        return {name: k for k, name in enumerate(self.fields)}

    def _hashed(self, word: str) -> int:
        return 1 + len(self.known) + derive_seed("word", word) % HASHED
