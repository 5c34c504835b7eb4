"""A trained user model with its vocabulary and scaler: embeds users and items, and is stored as an artifact.

    embedder = Embedder.load(storage, fingerprint)
    views = embedder.view_builder(items)(events)
    vectors = embedder.embed(views, ["Will this person buy again within 30 days?"])   # float32 [1, users, dim]

All batches have the same shape, so a user's vector is bit-identical in any batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rayrec.config.embeddings_section import Embeddings
from rayrec.embeddings import user_model
from rayrec.embeddings.embedder_training import TrainedModel
from rayrec.embeddings.instruction_answers import WORDS_EACH
from rayrec.embeddings.language_model import MAX_TOKENS, base_digest, text_tokenizer
from rayrec.embeddings.source_views import FeatureScaler, View, ViewBuilder
from rayrec.embeddings.user_events import Items
from rayrec.embeddings.word_vocabulary import PAD, Vocabulary, words_of
from rayrec.errors import DataError
from rayrec.numerics.ridge_blocks import single_thread
from rayrec.storage import Storage, artifacts, layout

KIND = "embedder"  # of the artifact
FORMAT = 3
_ROWS = 64  # users of every batch

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Embedder:
    settings: Embeddings
    vocabulary: Vocabulary
    scaler: FeatureScaler
    model: user_model.UserModel
    card: Mapping[str, Any]  # loss curve, epoch of the weights, base model

    @classmethod
    def of(cls, settings: Embeddings, trained: TrainedModel) -> Embedder:
        card = {"curve": [dict(row) for row in trained.curve], "epochs": trained.epochs, "format": FORMAT}
        card["base"] = base_digest(settings.model)
        return cls(settings, trained.vocabulary, trained.scaler, trained.model, card)

    @classmethod
    def load(cls, storage: Storage, fingerprint: str) -> Embedder:
        """Load an artifact. Raises MissingFileError if there is none, DataError if it cannot be read."""
        found = artifacts.load(storage, KIND, fingerprint)
        try:
            settings = Embeddings.model_validate_json(found.meta["settings"])
            vocabulary = Vocabulary.from_json(found.meta["vocabulary"])
            scaler, card = FeatureScaler.from_json(found.meta["scaler"]), found.meta["card"]
            sizes = vocabulary.size, vocabulary.lm_size
            base = base_digest(settings.model)
            if base != card["base"]:
                raise ValueError(f"it was trained on {card['base']}, and the base is now {base}")
            weights = user_model.restore(settings.model, tuple(settings.views), *sizes, found.arrays)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"the embedding model cannot be read: {error}",
                where=storage.url(layout.model_folder(KIND, fingerprint)),
                hint="delete the artifact's folder; the next run trains again",
            ) from None
        return cls(settings, vocabulary, scaler, weights, card)

    def save(self, storage: Storage, fingerprint: str) -> bool:
        """Save as safetensors and JSON. Returns False and writes nothing if another run saved it first."""
        arrays = {name: parameter.detach().numpy() for name, parameter in self.model.learned().items()}
        meta = {
            "settings": self.settings.model_dump_json(),  # as text, to keep the order of the sources
            "vocabulary": self.vocabulary.as_json(),
            "scaler": self.scaler.as_json(),
            "card": dict(self.card),
        }
        return artifacts.save(storage, KIND, fingerprint, arrays, meta)

    @property
    def dim(self) -> int:
        return self.settings.model.dim

    def view_builder(self, items: Items) -> ViewBuilder:
        """Create a builder of views over a catalogue, which may differ from that of the training."""
        return ViewBuilder(self.settings, self.vocabulary, self.scaler, items)

    @staticmethod
    def present(views: Mapping[str, View]) -> npt.NDArray[np.bool_]:
        """Mask of the sources that each user has, bool [users, sources]."""
        return np.stack([view.present for view in views.values()], axis=1)

    def embed(self, views: Mapping[str, View], instructions: Sequence[str]) -> Vectors:
        """Unit vectors, float32 [instructions, users, dim]. An instruction may be empty.

        Raises DataError for an instruction that is too long.
        """
        tokens = [self.instruction_ids(text) for text in instructions]
        out = np.empty((len(tokens), _users(views), self.dim), np.float32)
        with single_thread(), torch.inference_mode():
            for start, prefix in self.prefixes(views):
                cache = self.model.prefill(prefix)
                for k, ids in enumerate(tokens):
                    rows = out[k, start : start + _ROWS]
                    rows[:] = self.model.embed_cached(cache, ids)[: len(rows)].numpy()
        return out

    def embed_items(self, items: Items) -> Vectors:
        """Embed items as answers made of their first words: unit vectors [items, dim].

        Compare them only with users' vectors under instructions whose answer kind is `next`.
        """
        named = [self._tokenize(" ".join(words_of(text)[:WORDS_EACH])) for text in items.text]
        lengths = np.array([len(ids) for ids in named] + [0] * _ROWS)
        tokens = np.full((len(lengths), lengths.max()), PAD, np.int64)
        for row, ids in enumerate(named):
            tokens[row, : len(ids)] = ids
        out = np.empty((len(named), self.dim), np.float32)
        with single_thread(), torch.inference_mode():
            for start in range(0, len(named), _ROWS):
                batch = (torch.from_numpy(part[start : start + _ROWS]) for part in (tokens, lengths))
                rows = out[start : start + _ROWS]
                rows[:] = self.model.answers(*batch)[: len(rows)].numpy()
        return out

    def instruction_ids(self, instruction: str) -> list[int]:
        """Token ids of an instruction. Raises DataError if there are too many."""
        ids = self._tokenize(instruction)
        limit = MAX_TOKENS - self.model.prefix_tokens - 1
        if len(ids) > limit:
            raise DataError(f"the instruction has {len(ids)} tokens; the limit is {limit}", hint="shorten it")
        return ids

    @cached_property
    def _tokenize(self) -> Callable[[str], list[int]]:
        return text_tokenizer(self.settings.model, self.vocabulary)

    def prefixes(self, views: Mapping[str, View]) -> Iterator[tuple[int, torch.Tensor]]:
        """Batches (first user, prefix [_ROWS, prefix tokens, width]); the last one is padded with empty users."""
        if tuple(views) != self.model.sources:
            raise DataError(
                f"the views are {', '.join(views)}, but the model needs {', '.join(self.model.sources)}",
                hint="build the views with the embedder's own view_builder",
            )
        users = _users(views)
        summaries = np.zeros((users + _ROWS, len(views), self.model.llm.width), np.float32)
        present = np.zeros(summaries.shape[:2], np.bool_)
        present[:users] = self.present(views)
        for k, (name, view) in enumerate(views.items()):
            summaries[:users, k] = self._summaries(name, view)
        for start in range(0, users, _ROWS):
            rows = slice(start, start + _ROWS)
            yield start, self.model.prefix(torch.from_numpy(summaries[rows]), torch.from_numpy(present[rows]))

    def _summaries(self, name: str, view: View) -> Vectors:
        """Encode one source, [users, width]. Batches have one length class: lines rounded up to a power of two."""
        out = np.zeros((len(view.lengths), self.model.llm.width), np.float32)
        classes = np.exp2(np.ceil(np.log2(np.maximum(view.lengths, 1)))).astype(np.int64)
        for length in np.unique(classes[view.present]).tolist():
            members = np.flatnonzero((classes == length) & view.present)
            for start in range(0, len(members), _ROWS):
                users = members[start : start + _ROWS]
                lines = view.padded(users, _ROWS, length)
                found = self.model.summary(name, lines.words, lines.weight, lines.mask)
                out[users] = found[: len(users)].numpy()
        return out


def _users(views: Mapping[str, View]) -> int:
    return len(next(iter(views.values())).lengths)
