"""A tuned LLM as files: a plain Hugging Face checkpoint (safetensors, tokenizer.json) and its model card.

It is stored as a `rayrec.storage.published_folder`. Engines need local files: `fetch_checkpoint` copies a remote
checkpoint into the node's cache (`rayrec.storage.checkpoint_cache`) and checks the sha256.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rayrec.errors import DataError
from rayrec.instructions.facet_scheme import FacetScheme
from rayrec.instructions.vocabulary_filter import InVocabularyFilter
from rayrec.reranking.engines.engine import ModelFiles
from rayrec.reranking.item_token.item_vocabulary import Vocabulary, WordTokenizer
from rayrec.reranking.item_token.prompt_layout import PromptLayout
from rayrec.storage import Storage, layout, published_folder

FORMAT = 5  # version of the files and of the tuning code
_MARKS = 2  # <user> and <history>, around the words
_EVENT = 2  # an item and a gap, for which words must leave room


@dataclass(frozen=True)
class ModelCard:
    """The metadata of a checkpoint that a ranker needs. `item_ids` are in the order of item tokens."""

    vocabulary: Vocabulary
    item_ids: tuple[str, ...]
    events: int  # newest events in a prompt
    base: str  # "scratch", or the base checkpoint's name and content digest
    dtype: str  # of the stored weights
    settings: Mapping[str, Any]  # the tuning settings
    curve: tuple[Mapping[str, float], ...]  # the loss curve, one row an epoch
    epochs: int  # best epoch on validation, else the last
    known_words: tuple[str, ...] | None = None  # of requests, others are ignored; None: all words
    facets: FacetScheme | None = None  # that a request may name; None: tuned without requests
    data_selection: Mapping[str, Any] | None = None  # method, budget, users, of; None: tuned on all users
    logit_scale: float = 1.0  # of hidden states times item vectors (see ItemLM)
    own_vectors: int | None = None  # the first so many items have a vector of their own; None: all
    ancestors: tuple[str, ...] = ()  # fingerprints of the models that it was warm-started from, newest first
    shift: float | None = None  # of consumption since the ancestor, which was considered; None: there was none

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "format": FORMAT}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ModelCard:
        fields = {key: value for key, value in content.items() if key != "format"}
        fields["vocabulary"] = Vocabulary(**fields["vocabulary"])
        fields["item_ids"] = tuple(fields["item_ids"])
        fields["curve"] = tuple(fields["curve"])
        fields["ancestors"] = tuple(fields.get("ancestors", ()))
        fields["known_words"] = None if fields.get("known_words") is None else tuple(fields["known_words"])
        fields["facets"] = None if fields.get("facets") is None else FacetScheme.from_json(fields["facets"])
        return cls(**fields)


@dataclass(frozen=True)
class LocalCheckpoint:
    """A checkpoint on the local disk."""

    folder: str
    card: ModelCard

    def layout(self, instruction: str, tokens: int) -> PromptLayout:
        """The prompt layout for a default instruction (cleaned text); `tokens`: longest prompt of the engine."""
        ids = self._word_ids(instruction)
        if tokens < len(ids) + _MARKS + _EVENT:
            raise DataError(
                f"the instruction takes {len(ids)} tokens of the {tokens} that a prompt may have",
                where="instruction.default_request",
                hint="shorten the instruction",
            )
        return PromptLayout(self.card.vocabulary, tuple(ids), self.card.events, tokens)

    def longest_prompt(self, instruction: str) -> int:
        """Tokens of the longest possible prompt: an item and a gap for every event."""
        return (
            max(len(self._word_ids(instruction)), int(self.card.settings["instruction_tokens"]))
            + _MARKS
            + 2 * self.card.events
        )

    def word_tokenizer(self, tokens: int) -> WordTokenizer:
        """The tokenizer of instructions, with the known words and the length limit of the tuning.

        `tokens`: longest prompt of the engine; an item and a gap must still fit.
        """
        most = min(int(self.card.settings.get("instruction_tokens", tokens)), tokens - _MARKS - _EVENT)
        word_filter = None if self.card.known_words is None else InVocabularyFilter(self.card.known_words)
        return WordTokenizer(Path(self.folder) / "tokenizer.json", self.card.vocabulary, most, word_filter)

    @property
    def model_files(self) -> ModelFiles:
        """The checkpoint for an engine."""
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(self.folder, local_files_only=True).get_text_config()
        vocabulary = self.card.vocabulary
        return ModelFiles(self.folder, self.card.dtype, vocabulary.size, int(config.max_position_embeddings))

    def _word_ids(self, text: str) -> list[int]:
        words = WordTokenizer(Path(self.folder) / "tokenizer.json", self.card.vocabulary)([text])
        ids: list[int] = words.values.tolist()
        return ids

    def token_index(self, item_ids: pa.Array) -> pa.Int32Array:
        """Token index of each item id, int32; null for items newer than the tuning."""
        return pc.index_in(item_ids, value_set=pa.array(self.card.item_ids, pa.string()))


def publish(folder: Path, card: ModelCard, storage: Storage, path: str) -> bool:
    """Upload `folder`, then create `<path>/rayrec.json`. If that exists already, delete the upload and return False."""
    return published_folder.publish(folder, card.as_json(), storage, path)


def exists(storage: Storage, path: str) -> bool:
    return published_folder.exists(storage, path)


def read_model_card(storage: Storage, path: str) -> ModelCard:
    """The model card of a checkpoint. Raises MissingFileError if there is none, DataError if its record is
    unreadable."""
    record = published_folder.read_record(storage, path)
    try:
        return ModelCard.from_json(record["card"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise published_folder.unreadable(storage.url(layout.llm_record_path(path))) from None


def fetch_checkpoint(storage: Storage, path: str, cache: Path | None = None) -> LocalCheckpoint:
    """The checkpoint as a local folder: in place on a local store, else copied once per node.

    `cache`: folder of the copies, default `checkpoint_cache.default_folder()`. Raises DataError for a stale checkpoint.
    """
    folder = published_folder.fetch(storage, path, cache)
    return LocalCheckpoint(str(folder), read_model_card(storage, path))
