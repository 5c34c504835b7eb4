"""The words that views, instructions and answers are made of.

    0 | spoken words ... | hash buckets ... | fields ... | items ...

Spoken words are those of instructions, answers and item texts; a word that is not among them falls into a hash bucket,
so that any text can be read. Fields (`age:3`) and items (`item:85123A`) hold a colon, which no spoken word can: text of
the catalogue never reads as one of them. The language model reads and writes only what is spoken.
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
BUCKETS = 32  # of a number that is read as a word: half an octave each
HASHED = 64  # buckets for words that are not known
_WORD = re.compile(r"\w+")
_LONGEST = 40  # characters of a word


def words_of(text: str) -> list[str]:
    """Lower-case words of any text, in order."""
    return [word[:_LONGEST] for word in _WORD.findall(text.casefold())]


def bucket(number: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Which of BUCKETS a number is in: 2 log2(1 + |x|), mirrored below 0; the last and first hold everything beyond."""
    x = np.asarray(number, np.float64)
    octave = np.floor(2 * np.log2(1 + np.abs(np.nan_to_num(x)))).astype(np.int64)
    return np.clip(np.where(x < 0, -octave, octave) + 4, 0, BUCKETS - 1)


@dataclass(frozen=True)
class Vocabulary:
    """Ids of words. `known`: spoken words; `fields`: names of numbers; `items`: ids of the items that have a token."""

    known: tuple[str, ...]
    fields: tuple[str, ...]
    items: tuple[str, ...]

    @classmethod
    def learn(
        cls,
        texts: Iterable[str],
        spoken: Iterable[str],
        fields: Sequence[str],
        items: Iterable[str],
        min_texts: int,
    ) -> Vocabulary:
        """Words of `spoken` texts, and those in at least `min_texts` of `texts`. The order of the texts is nothing."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(set(words_of(text)))
        always = {word for text in spoken for word in words_of(text)}
        known = always | {word for word, count in counts.items() if count >= min_texts}
        return cls(tuple(sorted(known)), tuple(fields), tuple(sorted(items)))

    @cached_property
    def spoken(self) -> int:
        """Ids that the language model reads and writes: [0, spoken)."""
        return 1 + len(self.known) + HASHED

    @property
    def size(self) -> int:
        return self.spoken + BUCKETS * len(self.fields) + len(self.items)

    def ids(self, text: str) -> list[int]:
        """Of a text's words."""
        return [self._place.get(word) or self._hashed(word) for word in words_of(text)]

    def field(self, name: str, number: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The words of numbers, of the same shape; PAD for NaN."""
        ids = self.spoken + self._field[name] * BUCKETS + bucket(number)
        return np.where(np.isnan(np.asarray(number, np.float64)), PAD, ids)

    def field_exact(self, name: str, number: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
        """The words of small whole numbers in [0, BUCKETS), as they are."""
        return self.spoken + self._field[name] * BUCKETS + number.astype(np.int64)

    def item_tokens(self, item_ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """[items]; PAD for those without one."""
        place = {item: self.size - len(self.items) + k for k, item in enumerate(self.items)}
        return np.array([place.get(item, PAD) for item in item_ids], np.int64)

    def text_matrix(self, texts: Sequence[str], most: int) -> npt.NDArray[np.int64]:
        """The first `most` words of each text, [texts, most], PAD after the last."""
        out = np.full((len(texts), most), PAD, np.int64)
        for row, text in enumerate(texts):
            ids = self.ids(text)[:most]
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
