"""A trained model at work: events in, vectors out, as numpy arrays; and the artefact that it lives in.

    embedder = Embedder.load(storage, fingerprint)
    views = embedder.viewer(items)(events)
    vectors = embedder.embed(views, ["Will this person buy again within 30 days?"])   # float32 [1, users, dim]

A user's vector does not change by one bit with who else is asked for: every batch has the same shape.
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
from rayrec.embeddings.batches import padded
from rayrec.embeddings.instruction_answers import WORDS_EACH
from rayrec.embeddings.language_model import MAX_TOKENS, base_digest, text_tokenizer
from rayrec.embeddings.source_events import Items
from rayrec.embeddings.source_views import FeatureScaler, View, ViewBuilder
from rayrec.embeddings.training import TrainedModel
from rayrec.embeddings.view_vocabulary import PAD, Vocabulary, words_of
from rayrec.errors import DataError
from rayrec.numerics.ridge_blocks import single_thread
from rayrec.storage import Storage, artifacts

KIND = "embedder"  # of the artefact
FORMAT = 2
_ROWS = 64  # users of a batch, always

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Embedder:
    settings: Embeddings
    vocabulary: Vocabulary
    scales: FeatureScaler
    model: user_model.UserModel
    card: Mapping[str, Any]  # how it came about: the loss curve, which epoch these weights are of, on which base

    @classmethod
    def of(cls, settings: Embeddings, trained: TrainedModel) -> Embedder:
        card = {"curve": [dict(row) for row in trained.curve], "epochs": trained.epochs, "format": FORMAT}
        card["base"] = base_digest(settings.model)
        return cls(settings, trained.vocabulary, trained.scales, trained.model, card)

    @classmethod
    def load(cls, storage: Storage, fingerprint: str) -> Embedder:
        """Raises MissingFileError where there is none, DataError where it cannot be read."""
        found = artifacts.load(storage, KIND, fingerprint)
        try:
            settings = Embeddings.model_validate_json(found.meta["settings"])
            vocabulary = Vocabulary.from_json(found.meta["vocabulary"])
            scales, card = FeatureScaler.from_json(found.meta["scales"]), found.meta["card"]
            sizes = vocabulary.size, vocabulary.spoken
            base = base_digest(settings.model)
            if base != card["base"]:
                raise ValueError(f"it was trained on {card['base']}, and the base is now {base}")
            weights = user_model.restore(settings.model, tuple(settings.sources), *sizes, found.arrays)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"the embedding model cannot be read: {error}",
                where=storage.url(f"{artifacts.FOLDER}/{KIND}/{fingerprint}"),
                hint="delete the artefact's folder; the next run trains again",
            ) from None
        return cls(settings, vocabulary, scales, weights, card)

    def save(self, storage: Storage, fingerprint: str) -> bool:
        """As safetensors and a card; False, leaving nothing, if another run saved the same artefact first."""
        arrays = {name: parameter.detach().numpy() for name, parameter in self.model.learned().items()}
        meta = {
            "settings": self.settings.model_dump_json(),  # as text, which keeps the order of the sources
            "vocabulary": self.vocabulary.as_json(),
            "scales": self.scales.as_json(),
            "card": dict(self.card),
        }
        return artifacts.save(storage, KIND, fingerprint, arrays, meta)

    @property
    def dim(self) -> int:
        return self.settings.model.dim

    def view_builder(self, items: Items) -> ViewBuilder:
        """Makes views over a catalogue, which need not be the one of the training."""
        return ViewBuilder(self.settings, self.vocabulary, self.scales, items)

    @staticmethod
    def present(views: Mapping[str, View]) -> npt.NDArray[np.bool_]:
        """Which sources each user has, [users, sources]."""
        return np.stack([view.present for view in views.values()], axis=1)

    def embed(self, views: Mapping[str, View], instructions: Sequence[str]) -> Vectors:
        """Unit vectors, float32 [instructions, users, dim]. An empty instruction asks nothing in particular.

        Raises DataError for an instruction that is too long.
        """
        asked = [self._ids(text) for text in instructions]
        out = np.empty((len(asked), _users(views), self.dim), np.float32)
        with single_thread(), torch.inference_mode():
            for start, prefix in self._prefixes(views):
                cache = self.model.prefill(prefix)
                for k, ids in enumerate(asked):
                    rows = out[k, start : start + _ROWS]
                    rows[:] = self.model.embed_cached(cache, ids)[: len(rows)].numpy()
        return out

    def embed_items(self, items: Items) -> Vectors:
        """Unit vectors [items, dim] of items as answers to an open question, by the words that would name them.

        They lie in the space of the users' vectors under instructions of the kind `next`, and of no others.
        """
        named = [self._speak(" ".join(words_of(text)[:WORDS_EACH])) for text in items.text]
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

    def embed_uncached(self, views: Mapping[str, View], instructions: Sequence[str]) -> Vectors:
        """As `embed`, reading each user's sources and prefix anew for every instruction: the yardstick of the cache."""
        out = np.empty((len(instructions), _users(views), self.dim), np.float32)
        with single_thread(), torch.inference_mode():
            for k, text in enumerate(instructions):
                for start, prefix in self._prefixes(views):
                    rows = out[k, start : start + _ROWS]
                    rows[:] = self.model.embed_from_prefix(prefix, self._ids(text))[: len(rows)].numpy()
        return out

    def _ids(self, instruction: str) -> list[int]:
        ids = self._speak(instruction)
        room = MAX_TOKENS - self.model.prefix_tokens - 1
        if len(ids) > room:
            raise DataError(f"the instruction has {len(ids)} tokens; {room} can be read", hint="shorten it")
        return ids

    @cached_property
    def _speak(self) -> Callable[[str], list[int]]:
        return text_tokenizer(self.settings.model, self.vocabulary)

    def _prefixes(self, views: Mapping[str, View]) -> Iterator[tuple[int, torch.Tensor]]:
        """(first user, prefix of _ROWS users) batch after batch; the last one is filled up with nobody."""
        if tuple(views) != self.model.sources:
            raise DataError(
                f"views of {', '.join(views)} for a model that reads {', '.join(self.model.sources)}",
                hint="make the views with the embedder's own viewer",
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
        """[users, width]; users are batched with others of the same length class, a power of two of their own lines."""
        out = np.zeros((len(view.lengths), self.model.llm.width), np.float32)
        classes = np.exp2(np.ceil(np.log2(np.maximum(view.lengths, 1)))).astype(np.int64)
        for length in np.unique(classes[view.present]).tolist():
            members = np.flatnonzero((classes == length) & view.present)
            for start in range(0, len(members), _ROWS):
                users = members[start : start + _ROWS]
                lines = padded(view, users, _ROWS, length)
                found = self.model.summary(name, lines.words, lines.weight, lines.there)
                out[users] = found[: len(users)].numpy()
        return out


def _users(views: Mapping[str, View]) -> int:
    return len(next(iter(views.values())).lengths)
