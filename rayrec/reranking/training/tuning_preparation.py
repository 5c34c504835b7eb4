"""Preparation of a tuning: items with a token, tokenizer, prompt layout, initial model, and training events."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from rayrec.config import Tuning
from rayrec.errors import DataError
from rayrec.instructions.facet_scheme import WORD
from rayrec.instructions.facets import Facets, distractor_words, facet_words
from rayrec.instructions.teachers.instruction_simulator import InstructionSimulator
from rayrec.instructions.templates import InstructionRenderer, Templates
from rayrec.instructions.vocabulary_filter import InVocabularyFilter
from rayrec.numerics.bottom_k_sample import BottomKSample
from rayrec.numerics.hashing import derive_seed, hash_strings, splitmix64
from rayrec.reranking.item_token import item_lm, item_vocabulary, tuned_checkpoint
from rayrec.reranking.item_token.prompt_layout import PromptLayout
from rayrec.reranking.item_token.tuned_checkpoint import LocalCheckpoint
from rayrec.reranking.training.request_augmentation import RequestAugmentation
from rayrec.reranking.training.tuning_examples import Int, Sequences, item_counts
from rayrec.reranking.training.tuning_loop import TuningTask
from rayrec.reranking.training.warm_start import Ancestor, consumption_shift, start_from
from rayrec.storage import Storage
from rayrec.storage.concurrent_reads import read_in_order
from rayrec.storage.tables import read_arrow

_LOG = logging.getLogger(__name__)
_COLUMNS = ("item", "ts", "keep_weight", "order")
_SALT = np.uint64(derive_seed("tuning sample"))  # samples other users than the blend, which uses the plain hash
_MAX_NEW_ITEMS = 50_000  # items scored by their words alone; every step computes all their vectors
_SAMPLE_ROWS, _SAMPLE_ITEMS = 4, 8  # prompts from which a base's first logits are measured
_WITH_WORDS = ("text", "hybrid")  # values of item_init for which item vectors include words


@dataclass(frozen=True)
class TuningSpec:
    """The inputs and outputs of a tuning. Plain data: it is sent to the workers.

    `sequences`: Arrow IPC files below `root`, one row a user: item list<int32> (codes), ts list<int64> (µs, ascending),
    keep_weight list<float32> (0: removed; else the weight of the event as a target), order uint64 (a hash of the user).
    Only events before `now` (µs UTC) are used for training. With `until` > now the events in [now, until) validate
    each epoch: the best epoch is used, and patience stops the loop. `stop_after` instead gives the number of epochs, as
    found by an earlier, validated tuning.
    """

    root: str  # of the storage
    sequences: tuple[str, ...]
    path: str  # of the checkpoint, below root
    catalogue: pa.Table  # ITEM: row = code
    instruction: str  # cleaned
    settings: Tuning
    now: int
    until: int | None = None
    stop_after: int | None = None
    stop_after_warm: int | None = None  # the same for a warm start
    ancestor: Ancestor | None = None  # a model to start from, unless consumption has shifted
    factors: npt.NDArray[np.float32] | None = None  # [catalogue, k] to initialise item vectors
    templates: Templates | None = None  # for prompts with requests; None: no requests
    held_out_pairs: Int | None = None  # [n, 2] facet pairs excluded from prompts, held out for a test
    base: str | None = None  # name and digest that settings.base must have; None: any


@dataclass(frozen=True)
class PreparedTuning:
    """The prepared inputs of a tuning, the same on all workers."""

    spec: TuningSpec
    codes: Int  # of the items with a token
    tuned: int  # the first so many have own vectors; the others only words
    layout: PromptLayout
    word_tokenizer: item_vocabulary.WordTokenizer
    word_filter: InVocabularyFilter | None
    task: TuningTask
    tokenizer_json: Path
    ancestor: LocalCheckpoint | None  # what the model starts from
    shift: float | None  # of consumption since the ancestor that was considered

    @property
    def item_ids(self) -> tuple[str, ...]:
        """In the order of item tokens."""
        return tuple(self.spec.catalogue["item_id"].take(pa.array(self.codes)).to_pylist())

    def initial_model(self) -> item_lm.ItemLM:
        """The model before tuning, always the same."""
        base = None if self.ancestor is None else self.ancestor.folder
        lm = item_lm.build(self.spec.settings, self.layout.vocabulary, self.layout.tokens, self.tuned, base)
        _init_items(lm, self.spec, self.codes, self.word_tokenizer)
        if self.ancestor is not None:
            start_from(lm, self.ancestor, self.item_ids, self.tokenizer_json)
        elif self.spec.settings.base != "scratch":
            lm.scale_logits(_sample_prompts(self.layout))
        return lm


def prepare(spec: TuningSpec, storage: Storage, folder: Path) -> PreparedTuning:
    """Read the events and write the tokenizer to `folder`. Raises DataError if no item has enough events."""
    settings = spec.settings
    tables = [_users(spec, storage)]
    codes = _tuned_codes(spec, tables)
    tuned, codes = len(codes), np.append(codes, _new_codes(spec, codes))
    simulator = None
    if spec.templates is not None:
        simulator = InstructionSimulator(Facets.of(spec.catalogue).take(codes), held_out_pairs=spec.held_out_pairs)
    known = _known_texts(spec, simulator)
    tokenizer = _tokenizer(spec, len(codes), known)
    tokenizer.save_pretrained(str(folder))
    vocabulary = item_vocabulary.vocabulary_from_tokenizer(tokenizer, len(codes))
    path = folder / "tokenizer.json"
    plain = item_vocabulary.WordTokenizer(path, vocabulary, settings.instruction_tokens)
    words = tuple(plain([spec.instruction]).values.tolist())
    longest = (settings.instruction_tokens if simulator else len(words)) + 2 + 2 * settings.events
    word_filter = InVocabularyFilter(known) if simulator and settings.base == "scratch" else None
    filtered = item_vocabulary.WordTokenizer(path, vocabulary, settings.instruction_tokens, word_filter)
    augmentation = None if simulator is None else _augmentation(spec, simulator, filtered, tuned)
    task = _task(spec, tables, codes, augmentation)
    ancestor, shift = _ancestor(spec, storage, task)
    if ancestor is not None:
        task = replace(task, settings=settings.as_warm(), stop_after=spec.stop_after_warm)
    return PreparedTuning(
        spec,
        codes,
        tuned,
        PromptLayout(vocabulary, words, settings.events, longest),
        plain,
        word_filter,
        task,
        path,
        ancestor,
        shift,
    )


def _ancestor(spec: TuningSpec, storage: Storage, task: TuningTask) -> tuple[LocalCheckpoint | None, float | None]:
    """The model to start from, and the shift since `spec.ancestor`."""
    if spec.ancestor is None:
        return None, None
    shift = consumption_shift(task.events, spec.ancestor.cutoff, spec.now)
    if shift > spec.settings.warm_start_max_shift:
        message = "tune: consumption has shifted by %.2f (tuning.warm_start_max_shift %.2f): a cold start"
        _LOG.warning(message, shift, spec.settings.warm_start_max_shift)
        return None, shift
    return tuned_checkpoint.fetch_checkpoint(storage, spec.ancestor.path), shift


def _users(spec: TuningSpec, storage: Storage) -> pa.Table:
    """The rows of all users, or of `max_users` sampled by their hash; in an order that does not depend on shards."""
    sample = BottomKSample(spec.settings.max_users)
    for table in read_in_order(lambda path: read_arrow(storage, path).select(list(_COLUMNS)), spec.sequences):
        sample.add(table, splitmix64(table["order"].to_numpy() ^ _SALT))
    return sample.table().sort_by("order").combine_chunks()


def _tuned_codes(spec: TuningSpec, tables: list[pa.Table]) -> Int:
    """Codes of the items with enough events for an own vector, ascending; at most `max_items`, those with the most
    events, ties by a hash of their ids."""
    counts = item_counts(tables, len(spec.catalogue), spec.now)
    codes = np.flatnonzero(counts >= spec.settings.min_item_events)
    if len(codes) > spec.settings.max_items:
        _LOG.warning(
            "tune: %d items have enough events; the %d with the most have a vector of their own (tuning.max_items)",
            len(codes),
            spec.settings.max_items,
        )
        tie = hash_strings(spec.catalogue["item_id"].take(pa.array(codes)))
        codes = np.sort(codes[np.lexsort((tie, -counts[codes]))[: spec.settings.max_items]])
    if not len(codes):
        raise DataError(
            f"no item has {spec.settings.min_item_events} events, so the model would have no items",
            hint="give more days (data.window_days), lower tuning.min_item_events, or set rerank.method: none",
        )
    return codes


def _new_codes(spec: TuningSpec, codes: Int) -> Int:
    """Codes of the available items without an own vector, to be scored by their words, ascending.

    If there are too many, a sample by a hash of their ids, which is independent of age: the newest need it most.
    """
    if _item_init(spec) not in _WITH_WORDS:
        return np.empty(0, np.int64)
    available = spec.catalogue["available"].to_numpy(zero_copy_only=False).astype(bool)
    found = np.setdiff1d(np.flatnonzero(available), codes)
    if len(found) > _MAX_NEW_ITEMS:
        _LOG.warning("tune: %d items have no own vector; %d of them are scored by words", len(found), _MAX_NEW_ITEMS)
        found = found[np.argsort(hash_strings(spec.catalogue["item_id"].take(pa.array(found))), kind="stable")]
    return np.sort(found[:_MAX_NEW_ITEMS])


def _item_init(spec: TuningSpec) -> str:
    auto = "hybrid" if spec.templates is not None else "collaborative"
    return auto if spec.settings.item_init == "auto" else spec.settings.item_init


def _known_texts(spec: TuningSpec, simulator: InstructionSimulator | None) -> list[str]:
    """All texts of which prompts are made; their words are the known words."""
    if simulator is None or spec.templates is None:
        return [spec.instruction]
    templates = (one.text for one in spec.templates if one.task_form == "T2" and one.split == "train")
    facets = simulator.facets
    return [spec.instruction, *facets.name, *simulator.phrase_templates, *templates, *distractor_words(facets)]


def _tokenizer(spec: TuningSpec, items: int, known: list[str]) -> Any:
    if spec.settings.base != "scratch":
        return item_vocabulary.extended_tokenizer(spec.settings.base, items)
    return item_vocabulary.scratch_tokenizer(known, spec.catalogue["title"].to_pylist(), items)


def _augmentation(
    spec: TuningSpec, simulator: InstructionSimulator, tokens: item_vocabulary.WordTokenizer, tuned: int
) -> RequestAugmentation:
    assert spec.templates is not None
    facets = simulator.facets
    return RequestAugmentation(
        simulator=simulator,
        renderer=InstructionRenderer(spec.templates),
        tokens=tokens,
        task_mix=spec.settings.task_mix,
        distractors=distractor_words(facets),
        protected_words=facet_words(facets),
        title_distractors=[name for name, kind in zip(facets.name, facets.kind, strict=True) if kind == WORD],
        items=tuned,
    )


def _init_items(lm: item_lm.ItemLM, spec: TuningSpec, codes: Int, words: item_vocabulary.WordTokenizer) -> None:
    """Initialise item vectors from words, item factors, or both (tuning.item_init)."""
    start = _item_init(spec)
    if start in _WITH_WORDS:
        facets = Facets.of(spec.catalogue).take(codes)
        names = [" ".join(facets.name[n] for n in facets.of_item[row]) for row in range(len(codes))]
        lm.set_item_words(words(names), words(spec.catalogue["title"].take(pa.array(codes)).to_pylist()))
    if start in ("collaborative", "hybrid") and spec.factors is not None:
        lm.init_item_vectors(lm.project_factors(spec.factors[codes[: len(lm.items)]]))
    elif start == "text":
        with torch.no_grad():
            lm.items.zero_()


def _sample_prompts(layout: PromptLayout) -> torch.Tensor:
    """A few histories of items from all over the catalogue, int64 [rows, length]."""
    vocabulary = layout.vocabulary
    items = np.linspace(0, vocabulary.items - 1, _SAMPLE_ROWS * _SAMPLE_ITEMS).astype(np.int64)
    rows = vocabulary.first_item + items.reshape(_SAMPLE_ITEMS, _SAMPLE_ROWS).T
    gaps = np.full((_SAMPLE_ROWS, 1), layout.longest_gap)
    return torch.from_numpy(np.hstack([np.tile(layout.prefix, (_SAMPLE_ROWS, 1)), rows, gaps]))


def _task(spec: TuningSpec, tables: list[pa.Table], codes: Int, augmentation: RequestAugmentation | None) -> TuningTask:
    index = np.full(len(spec.catalogue), -1)
    index[codes] = np.arange(len(codes))
    events = Sequences.from_tables(tables, index, spec.now)
    validation = Sequences.from_tables(tables, index, spec.until) if spec.until is not None else None
    return TuningTask(events, validation, spec.now, spec.settings, spec.stop_after, augmentation)
