"""Tuning, as one worker does it: read events, build or load the model, run the loop, publish the checkpoint.

`rayrec.pipeline.llm_tuning` runs this in a group of workers; tests run it here and now.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from rayrec.config import Tuning
from rayrec.errors import DataError, MissingFileError
from rayrec.instructions.facet_scheme import WORD
from rayrec.instructions.facets import Facets, distractor_words, facet_words
from rayrec.instructions.in_vocabulary import InVocabularyFilter
from rayrec.instructions.instruction_prompt import InstructionRenderer
from rayrec.instructions.teachers.instruction_simulator import InstructionSimulator
from rayrec.instructions.templates import Templates
from rayrec.numerics.bottom_k_sample import BottomKSample
from rayrec.numerics.collectives import Worker
from rayrec.numerics.hashing import derive_seed, hash_strings, splitmix64
from rayrec.reranking.item_token import item_lm, item_vocabulary, tuned_checkpoint
from rayrec.reranking.item_token.prompt_layout import PromptLayout
from rayrec.reranking.item_token.tuned_checkpoint import ModelCard
from rayrec.reranking.training.data_selection import DataSelection, select_users
from rayrec.reranking.training.prompt_augmentation import RequestAugmentation
from rayrec.reranking.training.tuning_data import Int, Sequences, item_counts
from rayrec.reranking.training.tuning_loop import TuningLoop, TuningTask
from rayrec.storage import Storage, layout
from rayrec.storage.tables import read_arrow

_LOG = logging.getLogger(__name__)
_COLUMNS = ("item", "ts", "keep_weight", "order")
_SALT = np.uint64(derive_seed("tuning sample"))  # the blend's sample goes by the plain hash: it must not be these users
_MOST_NEW = 50_000  # items scored by their words alone; every step makes the vectors of all
_BY_WORDS = ("text", "hybrid")  # where item vectors know words


@dataclass(frozen=True)
class TuningSpec:
    """What to tune, on what, and where to put it. Plain data: it travels to the workers.

    `sequences`: Arrow IPC files below `root`, one row a user: item list<int32> (codes), ts list<int64> (µs, ascending),
    keep list<float32> (0: left out; the weight of the event as a target), order uint64 (a hash of the user: the order
    in which users are read). Nothing at or after `now` (µs UTC) is learned from. `until` > now: events in [now, until)
    judge each epoch; the best epoch is kept, and patience stops the loop.
    `stop_after`: epochs to run instead, as found by an earlier, judged tuning.
    """

    root: str  # of the storage
    sequences: tuple[str, ...]
    path: str  # of the artefact, below root
    catalogue: pa.Table  # ITEM: row = code
    instruction: str  # clean words
    settings: Tuning
    now: int
    until: int | None = None
    stop_after: int | None = None
    factors: npt.NDArray[np.float32] | None = None  # [catalogue, k]: where item vectors may start
    templates: Templates | None = None  # where prompts ask for something; None: only the instruction is learned
    held_out_pairs: Int | None = None  # [n, 2] facets that no prompt names together: kept for a test


def tune_on_worker(spec: TuningSpec, worker: Worker, report: Callable[[Mapping[str, float]], None]) -> ModelCard:
    """Run one worker's part to the end; the card of what was published (by this run, or by one that was faster).

    `report` gets each epoch's row of the curve. Raises DataError where there is nothing to learn from, ConfigError for
    settings that no model can have.
    """
    storage = Storage(spec.root)
    if worker.broadcast_first(tuned_checkpoint.exists(storage, spec.path)):
        return tuned_checkpoint.read_model_card(storage, spec.path)
    folder = Path(tempfile.mkdtemp(prefix="rayrec-tune-"))
    try:
        made = _prepare(spec, storage, folder)
        choice = _choice(made.task, made.initial_model, made.layout, worker)
        chosen = made.task if choice is None else replace(made.task, events=choice.select_events(made.task.events))
        loop = TuningLoop(made.initial_model(), made.layout, chosen, worker)
        _resume(loop, storage, spec, worker)
        loop.run(lambda state: _after_epoch(state, storage, spec, worker, report))
        card = _card(spec, made, loop, choice)
        if worker.rank == 0:
            loop.model.to("cpu").export(folder)
            tuned_checkpoint.publish(folder, card, storage, spec.path)
            storage.delete(layout.training_checkpoint_path(spec.path))
            card = tuned_checkpoint.read_model_card(storage, spec.path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return worker.broadcast_first(card)


@dataclass(frozen=True)
class _Prepared:
    """What a worker makes of a spec before it learns; the same in all of them."""

    spec: TuningSpec
    codes: Int  # of the items with a token
    tuned: int  # so many of them have vectors of their own, the first; the others are known by their words
    layout: PromptLayout
    word_tokenizer: item_vocabulary.WordTokenizer
    word_filter: InVocabularyFilter | None
    task: TuningTask

    def initial_model(self) -> item_lm.ItemLM:
        """The model before it has learned anything."""
        lm = item_lm.build(self.spec.settings, self.layout.vocabulary, self.layout.tokens, self.tuned)
        _start_items(lm, self.spec, self.codes, self.word_tokenizer)
        return lm


def _prepare(spec: TuningSpec, storage: Storage, folder: Path) -> _Prepared:
    """Reads the events; leaves the tokenizer in `folder`."""
    tables = [_users(spec, storage)]
    codes = _codes(spec, tables)
    tuned, codes = len(codes), np.append(codes, _new(spec, codes))
    teacher = (
        None
        if spec.templates is None
        else InstructionSimulator(Facets.of(spec.catalogue).take(codes), held_out_pairs=spec.held_out_pairs)
    )
    taught = _taught(spec, teacher)
    tokenizer = _tokenizer(spec, len(codes), taught)
    tokenizer.save_pretrained(str(folder))
    vocab = item_vocabulary.vocabulary_from_tokenizer(tokenizer, len(codes))
    reader = item_vocabulary.WordTokenizer(folder / "tokenizer.json", vocab, spec.settings.words)
    words = tuple(reader([spec.instruction]).values.tolist())
    longest = (spec.settings.words if teacher else len(words)) + 2 + 2 * spec.settings.events
    hearing = InVocabularyFilter(taught) if teacher and spec.settings.base == "scratch" else None
    heard = item_vocabulary.WordTokenizer(folder / "tokenizer.json", vocab, spec.settings.words, hearing)
    return _Prepared(
        spec,
        codes,
        tuned,
        PromptLayout(vocab, words, spec.settings.events, longest),
        reader,
        hearing,
        _task(spec, tables, codes, _asking(spec, teacher, heard, tuned)),
    )


def _users(spec: TuningSpec, storage: Storage) -> pa.Table:
    """What is known of whom the model learns from: of everybody, or of `max_users` by a hash of their own.

    In an order that has nothing to do with shards: the weights must not depend on how users were sharded.
    """
    chosen = BottomKSample(spec.settings.max_users)
    for path in spec.sequences:
        table = _read(storage, path)
        chosen.add(table, splitmix64(table["order"].to_numpy() ^ _SALT))
    return chosen.table().sort_by("order").combine_chunks()


def _codes(spec: TuningSpec, tables: list[pa.Table]) -> Int:
    """Codes of the items that get a token, ascending."""
    counts = item_counts(tables, len(spec.catalogue), spec.now)
    codes = np.flatnonzero(counts >= spec.settings.min_item_events)
    if not len(codes):
        raise DataError(
            f"no item has {spec.settings.min_item_events} events, so the model would have no items",
            hint="give more days (data.window_days), lower tuning.min_item_events, or set rerank.method: none",
        )
    return codes


def _new(spec: TuningSpec, codes: Int) -> Int:
    """Codes of the available items with too few events to be tuned, which the model can tell by their words, ascending.

    Of too many some by a hash of their ids, which says nothing of their age: the newest need it as much as any.
    """
    if _start(spec) not in _BY_WORDS:
        return np.empty(0, np.int64)
    available = spec.catalogue["available"].to_numpy(zero_copy_only=False).astype(bool)
    found = np.setdiff1d(np.flatnonzero(available), codes)
    if len(found) > _MOST_NEW:
        _LOG.warning("tune: %d items have too few events; %d of them are scored by words", len(found), _MOST_NEW)
        found = found[np.argsort(hash_strings(spec.catalogue["item_id"].take(pa.array(found))), kind="stable")]
    return np.sort(found[:_MOST_NEW])


def _start(spec: TuningSpec) -> str:
    auto = "hybrid" if spec.templates is not None else "collaborative"
    return auto if spec.settings.item_init == "auto" else spec.settings.item_init


def _taught(spec: TuningSpec, teacher: InstructionSimulator | None) -> list[str]:
    """The texts that prompts are made of."""
    if teacher is None or spec.templates is None:
        return [spec.instruction]
    templates = (one.text for one in spec.templates if one.task_form == "T2" and one.split == "train")
    fillers = distractor_words(teacher.facets)
    return [spec.instruction, *teacher.facets.name, *teacher.phrase_templates, *templates, *fillers]


def _tokenizer(spec: TuningSpec, items: int, taught: list[str]) -> Any:
    if spec.settings.base != "scratch":
        return item_vocabulary.extended_tokenizer(spec.settings.base, items)
    return item_vocabulary.scratch_tokenizer(taught, spec.catalogue["title"].to_pylist(), items)


def _asking(
    spec: TuningSpec, teacher: InstructionSimulator | None, heard: item_vocabulary.WordTokenizer, tuned: int
) -> RequestAugmentation | None:
    """How prompts ask for something; None: they do not."""
    if teacher is None or spec.templates is None:
        return None
    facets = teacher.facets
    return RequestAugmentation(
        teacher=teacher,
        renderer=InstructionRenderer(spec.templates),
        tokens=heard,
        task_mix=spec.settings.task_mix,
        distractors=distractor_words(facets),
        protected_words=facet_words(facets),
        title_distractors=[name for name, kind in zip(facets.name, facets.kind, strict=True) if kind == WORD],
        items=tuned,
    )


def _start_items(lm: item_lm.ItemLM, spec: TuningSpec, codes: Int, reader: item_vocabulary.WordTokenizer) -> None:
    """Where item vectors come from: what the items are called, who takes them, or both, as the settings say."""
    start = _start(spec)
    if start in _BY_WORDS:
        facets = Facets.of(spec.catalogue).take(codes)
        names = [" ".join(facets.name[n] for n in facets.of_item[row]) for row in range(len(codes))]
        lm.set_item_words(reader(names), reader(spec.catalogue["title"].take(pa.array(codes)).to_pylist()))
    if start in ("collaborative", "hybrid") and spec.factors is not None:
        lm.init_item_vectors(lm.project_factors(spec.factors[codes[: len(lm.items)]]))
    elif start == "text":
        with torch.no_grad():
            lm.items.zero_()


def _task(spec: TuningSpec, tables: list[pa.Table], codes: Int, asking: RequestAugmentation | None) -> TuningTask:
    index = np.full(len(spec.catalogue), -1)
    index[codes] = np.arange(len(codes))
    events = Sequences.from_tables(tables, index, spec.now)
    judged = Sequences.from_tables(tables, index, spec.until) if spec.until is not None else None
    return TuningTask(events, judged, spec.now, spec.settings, spec.stop_after, asking)


def _choice(
    task: TuningTask, fresh: Callable[[], item_lm.ItemLM], layout: PromptLayout, worker: Worker
) -> DataSelection | None:
    """Whom to learn from; None: everybody. All workers choose; should rounding make them differ, the first decides."""
    if task.settings.data_selection == "all":
        return None
    choice = select_users(task.events, fresh, layout, task.settings, task.now, worker.device)
    if worker.world_size > 1:
        weights = torch.from_numpy(choice.weights).to(worker.device)
        torch.distributed.broadcast(weights, 0)
        choice = replace(choice, weights=weights.cpu().numpy())
    if worker.rank == 0:
        _LOG.info("tune: %s chose %d of %d users", choice.method, choice.users, choice.of)
    return choice


def _resume(loop: TuningLoop, storage: Storage, spec: TuningSpec, worker: Worker) -> None:
    """All workers from what the first one finds: another run of the same night may write there meanwhile."""
    data = None
    if worker.rank == 0:
        with suppress(MissingFileError):
            data = storage.read(layout.training_checkpoint_path(spec.path))
    data = worker.broadcast_first(data)
    if data is not None:
        loop.resume(data)
        _LOG.warning("tune: goes on after epoch %d of a run that was stopped", loop.progress.epoch)


def _after_epoch(
    loop: TuningLoop, storage: Storage, spec: TuningSpec, worker: Worker, report: Callable[[Mapping[str, float]], None]
) -> None:
    if worker.rank == 0:
        storage.write(layout.training_checkpoint_path(spec.path), loop.checkpoint())
    report(loop.progress.curve[-1])


def _card(spec: TuningSpec, made: _Prepared, loop: TuningLoop, choice: DataSelection | None) -> ModelCard:
    curve = tuple({key: value for key, value in row.items() if key != "seconds"} for row in loop.progress.curve)
    return ModelCard(
        vocabulary=made.layout.vocabulary,
        item_ids=tuple(spec.catalogue["item_id"].take(pa.array(made.codes)).to_pylist()),
        events=spec.settings.events,
        base=item_lm.base_digest(spec.settings.base),
        dtype=str(loop.model.causal.dtype).removeprefix("torch."),
        settings=spec.settings.model_dump(mode="json"),
        curve=curve,
        epochs=loop.progress.best_epoch or loop.progress.epoch,
        known_words=None if made.word_filter is None else tuple(sorted(made.word_filter.words)),
        facets=None if made.task.augmentation is None else made.task.augmentation.teacher.facets.scheme,
        data_selection=None if choice is None else choice.as_json(),
    )


def _read(storage: Storage, path: str) -> pa.Table:
    return read_arrow(storage, path).select(list(_COLUMNS))
