"""The item-token vocabulary: words for the instruction, a few marks, and one added token per catalogue item.

    [words of the base tokenizer ...] <user> <history> <gap_0> ... <gap_7> <item_0> ... <item_n-1>

Item i is always token `first_item + i`: item tokens come from codes, never from parsed text. Words are encoded without
added tokens, so `<item_5>` or `<user>` in an instruction is plain text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from rayrec.errors import DataError
from rayrec.instructions.safe_tokenizer import tokenizer_without_added_tokens
from rayrec.instructions.vocabulary_filter import InVocabularyFilter
from rayrec.numerics.ragged import Ragged
from rayrec.storage import hf_checkpoint

if TYPE_CHECKING:  # imported only for types: it takes a second
    from transformers import PreTrainedTokenizerFast

GAP_DAYS = (0.25, 1.0, 3.0, 7.0, 14.0, 28.0, 60.0)
"""Upper bounds of the gap buckets, days; `<gap_7>` is everything longer."""

GAPS = len(GAP_DAYS) + 1
_MARKS = ("<user>", "<history>", *(f"<gap_{i}>" for i in range(GAPS)))
_PAD = "<pad>"
_WORDS = 2048  # size of the byte-level BPE of a scratch tokenizer
_CORPUS = 20_000  # titles that it is trained on
_PROMPT_WEIGHT = 100  # repetitions of prompt texts in the training corpus


@dataclass(frozen=True)
class Vocabulary:
    """Token ids. Items are the last `items` ids; `size` counts all ids."""

    pad: int
    user: int
    history: int
    first_gap: int
    first_item: int
    items: int

    @property
    def size(self) -> int:
        return self.first_item + self.items


def scratch_tokenizer(prompt_texts: Sequence[str], titles: Iterable[str], items: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on prompt texts and titles, plus marks and items.

    Deterministic. Prompt texts are weighted so that their words become whole tokens.
    """
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.BPE())
    # A word is one token in any position and case.
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)]
    )
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_WORDS,
        special_tokens=[_PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    corpus = [title for title, _ in zip(titles, range(_CORPUS), strict=False)]
    words.train_from_iterator(list(prompt_texts) * _PROMPT_WEIGHT + corpus, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token=_PAD)
    _add(tokenizer, items)
    return tokenizer


def extended_tokenizer(base: str, items: int) -> PreTrainedTokenizerFast:
    """The tokenizer of a local checkpoint plus marks and items. Raises ConfigError if it cannot be used."""
    tokenizer: PreTrainedTokenizerFast = hf_checkpoint.load_tokenizer(base, "tuning.base")
    _add(tokenizer, items)
    return tokenizer


def vocabulary_from_tokenizer(tokenizer: PreTrainedTokenizerFast, items: int) -> Vocabulary:
    """The ids of marks and items. Raises DataError if they are not consecutive."""
    ends = [f"<item_{i}>" for i in ((0, items - 1) if items else ())]
    names = [*_MARKS, *ends]
    ids = tokenizer.convert_tokens_to_ids(names)
    first = ids[0]
    expected = [
        *range(first, first + len(_MARKS)),
        *([first + len(_MARKS), first + len(_MARKS) + items - 1] if items else []),
    ]
    if ids != expected:
        raise DataError(
            "the base tokenizer already has some of the tokens that rayrec adds", hint="start from another base"
        )
    pad = tokenizer.pad_token_id
    return Vocabulary(pad if pad is not None else 0, first, first + 1, first + 2, first + len(_MARKS), items)


class WordTokenizer:
    """Encodes texts as plain words, without special or added tokens."""

    def __init__(
        self,
        tokenizer_json: str | Path,
        vocabulary: Vocabulary,
        max_tokens: int | None = None,
        word_filter: InVocabularyFilter | None = None,
    ) -> None:
        """`max_tokens`: texts are truncated to it. `word_filter`: applied to every text first."""
        self._tokenizer = tokenizer_without_added_tokens(tokenizer_json)
        self._vocabulary, self._max_tokens, self._word_filter = vocabulary, max_tokens, word_filter

    def __call__(self, texts: Sequence[str]) -> Ragged:
        """Token ids int64, one row a text. Raises DataError for a text with one of rayrec's own tokens."""
        words = list(texts) if self._word_filter is None else [self._word_filter(text) for text in texts]
        encoded = self._tokenizer.encode_batch(words, add_special_tokens=False)
        found = [one.ids[: self._max_tokens] for one in encoded]
        ids = np.array([token for row in found for token in row], np.int64)
        if ids.max(initial=0) >= self._vocabulary.user:
            raise DataError(
                "the instruction contains one of rayrec's own tokens",
                where="instruction.default_request",
                hint="write instruction.default_request in plain words",
            )
        return Ragged.from_lengths(ids, [len(row) for row in found])


def _add(tokenizer: PreTrainedTokenizerFast, items: int) -> None:
    tokens = [*_MARKS, *(f"<item_{i}>" for i in range(items))]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens], special_tokens=True)
