"""Tuning, as one worker does it: read events, build or load the model, run the loop, publish the checkpoint.

`rayrec.reranking.tuning_ray` runs this in a group of workers; tests run it here and now.
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
from rayrec.hashing import hash_strings, mixed, seed_of
from rayrec.instructions.facet_scheme import WORD
from rayrec.instructions.facets import Facets, meaningful_words, words_without_facets
from rayrec.instructions.hearing import Hearing
from rayrec.instructions.sentences import Sentences
from rayrec.instructions.teachers.rules import RulesTeacher
from rayrec.instructions.templates import Templates
from rayrec.reranking import artefact, model, vocabulary
from rayrec.reranking.artefact import Card
from rayrec.reranking.choosing import Choice, choose
from rayrec.reranking.prompt import Layout
from rayrec.reranking.tuning_data import Int, Sequences, item_counts
from rayrec.reranking.tuning_loop import Loop, Task
from rayrec.reranking.tuning_words import Asking
from rayrec.smallest import Smallest
from rayrec.storage import Storage
from rayrec.workers import Worker

_LOG = logging.getLogger(__name__)
_COLUMNS = ("item", "ts", "keep", "order")
_SALT = np.uint64(seed_of("tuning sample"))  # the blend's sample goes by the plain hash: it must not be these users
_CHECKPOINT = "checkpoint.safetensors"
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
    unseen: Int | None = None  # [n, 2] facets that no prompt names together: kept for a test


def tune_here(spec: TuningSpec, worker: Worker, report: Callable[[Mapping[str, float]], None]) -> Card:
    """Run one worker's part to the end; the card of what was published (by this run, or by one that was faster).

    `report` gets each epoch's row of the curve. Raises DataError where there is nothing to learn from, ConfigError for
    settings that no model can have.
    """
    storage = Storage(spec.root)
    if worker.agreed(artefact.exists(storage, spec.path)):
        return artefact.read_card(storage, spec.path)
    folder = Path(tempfile.mkdtemp(prefix="rayrec-tune-"))
    try:
        made = _prepare(spec, storage, folder)
        choice = _choice(made.task, made.fresh, made.layout, worker)
        chosen = made.task if choice is None else replace(made.task, events=choice.of_events(made.task.events))
        loop = Loop(made.fresh(), made.layout, chosen, worker)
        _resume(loop, storage, spec, worker)
        loop.run(lambda state: _after_epoch(state, storage, spec, worker, report))
        card = _card(spec, made, loop, choice)
        if worker.rank == 0:
            loop.model.to("cpu").export(folder)
            artefact.publish(folder, card, storage, spec.path)
            storage.delete(f"{spec.path}/{_CHECKPOINT}")
            card = artefact.read_card(storage, spec.path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return worker.agreed(card)


@dataclass(frozen=True)
class _Prepared:
    """What a worker makes of a spec before it learns; the same in all of them."""

    spec: TuningSpec
    codes: Int  # of the items with a token
    tuned: int  # so many of them have vectors of their own, the first; the others are known by their words
    layout: Layout
    reader: vocabulary.WordReader
    hearing: Hearing | None
    task: Task

    def fresh(self) -> model.ItemLM:
        """The model before it has learned anything."""
        lm = model.build(self.spec.settings, self.layout.vocabulary, self.layout.tokens, self.tuned)
        _start_items(lm, self.spec, self.codes, self.reader)
        return lm


def _prepare(spec: TuningSpec, storage: Storage, folder: Path) -> _Prepared:
    """Reads the events; leaves the tokenizer in `folder`."""
    tables = [_users(spec, storage)]
    codes = _codes(spec, tables)
    tuned, codes = len(codes), np.append(codes, _new(spec, codes))
    teacher = (
        None if spec.templates is None else RulesTeacher(Facets.of(spec.catalogue).take(codes), unseen=spec.unseen)
    )
    taught = _taught(spec, teacher)
    tokenizer = _tokenizer(spec, len(codes), taught)
    tokenizer.save_pretrained(str(folder))
    vocab = vocabulary.vocabulary_of(tokenizer, len(codes))
    reader = vocabulary.WordReader(folder / "tokenizer.json", vocab, spec.settings.words)
    words = tuple(reader([spec.instruction]).values.tolist())
    longest = (spec.settings.words if teacher else len(words)) + 2 + 2 * spec.settings.events
    hearing = Hearing(taught) if teacher and spec.settings.base == "scratch" else None
    heard = vocabulary.WordReader(folder / "tokenizer.json", vocab, spec.settings.words, hearing)
    return _Prepared(
        spec,
        codes,
        tuned,
        Layout(vocab, words, spec.settings.events, longest),
        reader,
        hearing,
        _task(spec, tables, codes, _asking(spec, teacher, heard, tuned)),
    )


def _users(spec: TuningSpec, storage: Storage) -> pa.Table:
    """What is known of whom the model learns from: of everybody, or of `max_users` by a hash of their own.

    In an order that has nothing to do with shards: the weights must not depend on how users were sharded.
    """
    chosen = Smallest(spec.settings.max_users)
    for path in spec.sequences:
        table = _read(storage, path)
        chosen.add(table, mixed(table["order"].to_numpy() ^ _SALT))
    return chosen.table().sort_by("order").combine_chunks()


def _codes(spec: TuningSpec, tables: list[pa.Table]) -> Int:
    """Codes of the items that get a token, ascending."""
    counts = item_counts(tables, len(spec.catalogue), spec.now)
    codes = np.flatnonzero(counts >= spec.settings.min_item_events)
    if not len(codes):
        raise DataError(
            f"no item has {spec.settings.min_item_events} events, so the model would have no items",
            do="give more days (data.window_days), lower tuning.min_item_events, or set rerank.method: none",
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
    return auto if spec.settings.items_from == "auto" else spec.settings.items_from


def _taught(spec: TuningSpec, teacher: RulesTeacher | None) -> list[str]:
    """The texts that prompts are made of."""
    if teacher is None or spec.templates is None:
        return [spec.instruction]
    templates = (one.text for one in spec.templates if one.task_form == "T2" and one.split == "train")
    fillers = words_without_facets(teacher.facets)
    return [spec.instruction, *teacher.facets.name, *teacher.wordings, *templates, *fillers]


def _tokenizer(spec: TuningSpec, items: int, taught: list[str]) -> Any:
    if spec.settings.base != "scratch":
        return vocabulary.extended_tokenizer(spec.settings.base, items)
    return vocabulary.scratch_tokenizer(taught, spec.catalogue["title"].to_pylist(), items)


def _asking(spec: TuningSpec, teacher: RulesTeacher | None, heard: vocabulary.WordReader, tuned: int) -> Asking | None:
    """How prompts ask for something; None: they do not."""
    if teacher is None or spec.templates is None:
        return None
    facets = teacher.facets
    return Asking(
        teacher=teacher,
        sentences=Sentences(spec.templates),
        tokens=heard,
        shares=spec.settings.forms,
        fillers=words_without_facets(facets),
        meant=meaningful_words(facets),
        asides=[name for name, kind in zip(facets.name, facets.kind, strict=True) if kind == WORD],
        items=tuned,
    )


def _start_items(lm: model.ItemLM, spec: TuningSpec, codes: Int, reader: vocabulary.WordReader) -> None:
    """Where item vectors come from: what the items are called, who takes them, or both, as the settings say."""
    start = _start(spec)
    if start in _BY_WORDS:
        facets = Facets.of(spec.catalogue).take(codes)
        names = [" ".join(facets.name[n] for n in facets.of_item[row]) for row in range(len(codes))]
        lm.name_items(reader(names), reader(spec.catalogue["title"].take(pa.array(codes)).to_pylist()))
    if start in ("collaborative", "hybrid") and spec.factors is not None:
        lm.start_items(lm.vectors_of_factors(spec.factors[codes[: len(lm.items)]]))
    elif start == "text":
        with torch.no_grad():
            lm.items.zero_()


def _task(spec: TuningSpec, tables: list[pa.Table], codes: Int, asking: Asking | None) -> Task:
    index = np.full(len(spec.catalogue), -1)
    index[codes] = np.arange(len(codes))
    events = Sequences.from_tables(tables, index, spec.now)
    judged = Sequences.from_tables(tables, index, spec.until) if spec.until is not None else None
    return Task(events, judged, spec.now, spec.settings, spec.stop_after, asking)


def _choice(task: Task, fresh: Callable[[], model.ItemLM], layout: Layout, worker: Worker) -> Choice | None:
    """Whom to learn from; None: everybody. All workers choose; should rounding make them differ, the first decides."""
    if task.settings.choose == "all":
        return None
    choice = choose(task.events, fresh, layout, task.settings, task.now, worker.device)
    if worker.world > 1:
        weights = torch.from_numpy(choice.weights).to(worker.device)
        torch.distributed.broadcast(weights, 0)
        choice = replace(choice, weights=weights.cpu().numpy())
    if worker.rank == 0:
        _LOG.info("tune: %s chose %d of %d users", choice.method, choice.users, choice.of)
    return choice


def _resume(loop: Loop, storage: Storage, spec: TuningSpec, worker: Worker) -> None:
    """All workers from what the first one finds: another run of the same night may write there meanwhile."""
    data = None
    if worker.rank == 0:
        with suppress(MissingFileError):
            data = storage.read(f"{spec.path}/{_CHECKPOINT}")
    data = worker.agreed(data)
    if data is not None:
        loop.resume(data)
        _LOG.warning("tune: goes on after epoch %d of a run that was stopped", loop.progress.epoch)


def _after_epoch(
    loop: Loop, storage: Storage, spec: TuningSpec, worker: Worker, report: Callable[[Mapping[str, float]], None]
) -> None:
    if worker.rank == 0:
        storage.write(f"{spec.path}/{_CHECKPOINT}", loop.checkpoint())
    report(loop.progress.curve[-1])


def _card(spec: TuningSpec, made: _Prepared, loop: Loop, choice: Choice | None) -> Card:
    curve = tuple({key: value for key, value in row.items() if key != "seconds"} for row in loop.progress.curve)
    return Card(
        vocabulary=made.layout.vocabulary,
        item_ids=tuple(spec.catalogue["item_id"].take(pa.array(made.codes)).to_pylist()),
        events=spec.settings.events,
        base=model.base_digest(spec.settings.base),
        dtype=str(loop.model.causal.dtype).removeprefix("torch."),
        settings=spec.settings.model_dump(mode="json"),
        curve=curve,
        epochs=loop.progress.best_epoch or loop.progress.epoch,
        taught=None if made.hearing is None else tuple(sorted(made.hearing.words)),
        facets=None if made.task.asking is None else made.task.asking.teacher.facets.scheme,
        chosen=None if choice is None else choice.as_json(),
    )


def _read(storage: Storage, path: str) -> pa.Table:
    with storage.open(path) as file, pa.ipc.open_file(file) as reader:
        return reader.read_all().select(list(_COLUMNS))
