"""The item-token vocabulary: words for the instruction, a few marks, and one added token per catalogue item.

    [words of the base tokenizer ...] <user> <history> <gap_0> ... <gap_7> <item_0> ... <item_n-1>

Item i of the checkpoint is always token `first_item + i`: item tokens come from codes, never from parsing text. Words
come from a tokenizer without any added tokens, so `<item_5>` or `<user>` inside an instruction is plain characters.
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

if TYPE_CHECKING:  # takes a second to import
    from transformers import PreTrainedTokenizerFast

GAP_DAYS = (0.25, 1.0, 3.0, 7.0, 14.0, 28.0, 60.0)
"""Upper ends of the time buckets, days; `<gap_7>` is everything longer."""

GAPS = len(GAP_DAYS) + 1
_MARKS = ("<user>", "<history>", *(f"<gap_{i}>" for i in range(GAPS)))
_PAD = "<pad>"
_WORDS = 2048  # byte-level pieces of a scratch tokenizer: enough for instructions; any text can be encoded
_CORPUS = 20_000  # titles that the pieces are learned from
_PROMPT_WEIGHT = 100  # how often prompt texts count


@dataclass(frozen=True)
class Vocabulary:
    """Token ids. Items are the last `items` ids in use; `size` counts all ids up to there."""

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
    """A byte-level BPE learned from the texts of prompts and from titles, then the marks and the items.

    Deterministic. Words of prompts count for more than words of titles: they become whole tokens.
    """
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.BPE())
    # One word, one token, wherever it stands: at the start, in quotes, in capitals.
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
    """The tokenizer of a local checkpoint plus the marks and the items. Raises ConfigError if it cannot be used."""
    tokenizer: PreTrainedTokenizerFast = hf_checkpoint.load_tokenizer(base, "tuning.base")
    _add(tokenizer, items)
    return tokenizer


def vocabulary_from_tokenizer(tokenizer: PreTrainedTokenizerFast, items: int) -> Vocabulary:
    """The ids of the marks and the items. Raises DataError if they do not follow each other."""
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
    """Texts -> token ids of plain words. No special or added token is ever recognised in a text."""

    def __init__(
        self,
        tokenizer_json: str | Path,
        vocabulary: Vocabulary,
        max_tokens: int | None = None,
        word_filter: InVocabularyFilter | None = None,
    ) -> None:
        """`max_tokens`: of a text; the rest is cut off. `word_filter`: applied to every text first."""
        self._tokenizer = tokenizer_without_added_tokens(tokenizer_json)
        self._vocabulary, self._max_tokens, self._word_filter = vocabulary, max_tokens, word_filter

    def __call__(self, texts: Sequence[str]) -> Ragged:
        """int64, one row a text. Raises DataError for a text with one of rayrec's own tokens."""
        words = list(texts) if self._word_filter is None else [self._word_filter(text) for text in texts]
        encoded = self._tokenizer.encode_batch(words, add_special_tokens=False)
        found = [one.ids[: self._max_tokens] for one in encoded]
        ids = np.array([token for row in found for token in row], np.int64)
        if ids.max(initial=0) >= self._vocabulary.user:
            raise DataError("the instruction contains one of rayrec's own tokens", where="instruction.default_request")
        return Ragged.from_lengths(ids, [len(row) for row in found])


def _add(tokenizer: PreTrainedTokenizerFast, items: int) -> None:
    tokens = [*_MARKS, *(f"<item_{i}>" for i in range(items))]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens], special_tokens=True)
