"""The instruction-satisfaction loss against its definition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_tables import item_table
from torch.utils._python_dispatch import TorchDispatchMode
from tuning_cases import ITEMS, NOW, pairs_shop, settings

from rayrec.instructions.facets import Facets
from rayrec.instructions.teachers.instruction_simulator import InstructionSimulator
from rayrec.instructions.templates import InstructionRenderer, load_templates
from rayrec.numerics.collectives import Worker
from rayrec.numerics.ragged import Ragged
from rayrec.reranking.item_token import item_lm, item_vocabulary
from rayrec.reranking.item_token.prompt_layout import PromptLayout
from rayrec.reranking.training.request_augmentation import RequestAugmentation
from rayrec.reranking.training.tuning_examples import Batch, Sequences, TuningExamples
from rayrec.reranking.training.tuning_loop import TuningLoop, TuningTask
from rayrec.reranking.training.tuning_loss import ItemLoss, SampledItems


def facets() -> Facets:
    kinds = [f"{('red', 'green', 'blue')[row % 3]}|{('old', 'new')[row % 2]}" for row in range(ITEMS)]
    return Facets.of(item_table(category=kinds))


@pytest.fixture(scope="module")
def loop() -> TuningLoop:
    known = facets()
    tokenizer = item_vocabulary.scratch_tokenizer(["a word"], ["thing"], ITEMS)
    layout = PromptLayout(item_vocabulary.vocabulary_from_tokenizer(tokenizer, ITEMS), (1, 2), 10, 60)
    augmentation = RequestAugmentation(
        InstructionSimulator(known), InstructionRenderer(load_templates()), lambda texts: _none(len(texts)), {}
    )
    events = Sequences.from_tables([pairs_shop(20)], np.arange(ITEMS), NOW)
    given = settings()
    task = TuningTask(events, None, NOW, given, augmentation=augmentation)
    return TuningLoop(item_lm.build(given, layout.vocabulary, layout.tokens), layout, task, Worker())


def _none(rows: int) -> Ragged:
    return Ragged.from_lengths(np.empty(0, np.int64), [0] * rows)


def batch(requests: Any, target: list[int], weight: list[float]) -> Batch:
    queries = np.arange(len(requests))
    return Batch(
        np.zeros((1, 1), np.int64),
        queries,
        queries,
        np.array(target),
        queries,
        np.array(weight, np.float32),
        np.array(requests),
    )


@pytest.mark.parametrize("instruction_loss_weight", [0.0, 1.0, 2.5])
def test_loss_weights_the_probability_of_all_satisfying_items(loop: TuningLoop, instruction_loss_weight: float) -> None:
    known = facets()
    red, old, new = (known.number("category", name) for name in ("red", "old", "new"))
    requests = [[red, -1, -1], [-1, -1, -1], [red, old, -1], [red, -1, new]]
    target, weight = [0, 5, 6, 12], [1.0, 0.5, 0.25, 2.0]
    rng = np.random.default_rng(0)
    states, items = torch.from_numpy(rng.normal(size=(4, 8))), torch.from_numpy(rng.normal(size=(ITEMS, 8)))
    pieces = loop._loss.loss_chunks(
        states.float(), items.float(), batch(requests, target, weight), instruction_loss_weight=instruction_loss_weight
    )
    found = float(sum(pieces))

    logits = states.numpy() @ items.numpy().T
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = -sum(w * np.log(probability[n, t]) for n, (t, w) in enumerate(zip(target, weight, strict=True)))
    for n, (a, b, c) in enumerate(requests):
        if a >= 0:
            good = known.items_of([f for f in (a, b) if f >= 0], [c] if c >= 0 else [])
            assert good[target[n]]
            expected -= instruction_loss_weight * weight[n] * np.log(probability[n, good].sum())
    assert found == pytest.approx(expected, rel=1e-5)


def test_satisfying_items_match_the_facets(loop: TuningLoop) -> None:
    known = facets()
    rng = np.random.default_rng(1)
    requests = rng.integers(-1, len(known), (60, 3))
    found = loop._loss.satisfying(torch.from_numpy(requests), torch.arange(ITEMS)).numpy()
    for row, (a, b, c) in zip(found, requests.tolist(), strict=True):
        expected = known.items_of([f for f in (a, b) if f >= 0], [c] if c >= 0 else [])
        np.testing.assert_array_equal(row, expected)


def test_targets_outside_the_sample_change_no_weight(loop: TuningLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = Ragged.from_lengths(np.full(3, loop.model.vocabulary.first_gap), [3])
    one = Ragged.from_lengths(np.array([0]), [1])
    requests, weight = np.full((1, 3), -1), one.like(np.ones(1, np.float32))
    examples = TuningExamples(tokens, one.like(np.array([2])), np.array([NOW]), one, weight, requests)
    everybody = SampledItems.all_items(ITEMS)
    hidden = replace(everybody, place=np.where(np.arange(ITEMS) == 0, -1, everybody.place))
    for sampled, moved in ((hidden, False), (everybody, True)):
        monkeypatch.setattr(loop, "_sampled_items", lambda targets, sampled=sampled: sampled)
        loss = loop._step(examples, np.array([0]), 1.0)
        gradients = [p.grad for p in loop.model.trainable_parameters().values() if p.grad is not None]
        assert (loss > 0) == moved
        assert any(bool(gradient.any()) for gradient in gradients) == moved


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor created meanwhile."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [one for one in (out if isinstance(out, tuple) else (out,)) if isinstance(one, torch.Tensor)]
        self.numbers = max([self.numbers, *(one.numel() for one in made)])
        return out


def test_only_facets_of_requests_are_looked_up() -> None:
    """300 facets and 2,000 items: a request that includes one facet and excludes another, among the 500 items of a
    step."""
    rng = np.random.default_rng(0)
    loss = ItemLoss(torch.from_numpy(rng.random((300, 2000)) < 0.3))
    shown = torch.from_numpy(np.sort(rng.choice(2000, 500, replace=False)))
    with Largest() as largest:
        found = loss.satisfying(torch.tensor([[7, -1, 9], [7, 7, 9]]), shown)
    assert torch.equal(found, (loss.item_has_facet[7] & ~loss.item_has_facet[9])[shown].expand(2, -1))
    assert largest.numbers == 3 * 500
