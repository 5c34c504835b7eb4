"""The attribution benchmark's scores: closed forms against dattri, explicit inverses and the denoiser."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_noise import histories, load, required_fits

from benchmarks import attribution_scores as scores
from benchmarks.attribution import split
from benchmarks.attribution_scores import AttributionCase
from rayrec.numerics.next_item_model import NextItemModel
from rayrec.numerics.ragged import Ragged
from rayrec.retrieval.next_item import NextItemExamples, NextItemSettings, train

ITEMS = 7
SETTINGS = NextItemSettings(factors=2, epochs=8, checkpoints=2, batch_events=16, window=4, learning_rate=0.05)


def rows(users: int = 12, seed: int = 0) -> Ragged:
    random = np.random.default_rng(seed)
    lengths = random.integers(3, 7, users)
    return Ragged.from_lengths(random.integers(0, ITEMS, lengths.sum()).astype(np.int32), lengths)


def small(seed: int = 0, damping: float = 1.0, steps: int = 60) -> AttributionCase:
    examples, test = split(rows(seed=seed), 5, SETTINGS, seed)
    return AttributionCase(train(examples, ITEMS, SETTINGS), examples, test, damping, steps)


def hessian(of: AttributionCase) -> torch.Tensor:
    """Hessian of the mean training loss at the last checkpoint, in dattri's order of parameters."""
    items, width = of.model.source[-1].shape
    cut = items * width
    bag, own = scores.bags(of.train, items).double(), torch.from_numpy(of.train.target)

    def loss(flat: torch.Tensor) -> torch.Tensor:
        source, target = flat[:cut].reshape(width, items), flat[cut:].reshape(items, width + 1)
        hidden = torch.nn.functional.pad(bag @ source.T, (0, 1), value=1.0)
        return torch.nn.functional.cross_entropy(hidden @ target.T, own)

    flat = np.concatenate([of.model.source[-1].T.ravel(), of.model.target[-1].ravel()])
    found: torch.Tensor = torch.func.hessian(loss)(torch.from_numpy(flat).double())
    return found


def gradients(of: AttributionCase, examples: NextItemExamples) -> np.ndarray:
    """Gradients in dattri's order of parameters, [n, parameters], as explicit outer products."""
    (delta, hidden), (back, bag) = scores.layers(of.model, examples, -1)
    source, target = back.unsqueeze(2) * bag.unsqueeze(1), delta.unsqueeze(2) * hidden.unsqueeze(1)
    return torch.cat([source.flatten(1), target.flatten(1)], 1).double().numpy()


def by_dattri(
    of: AttributionCase, attributor: Any, batch: int, checkpoints: slice = slice(-1, None), **given_: Any
) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        method = attributor(scores.task(of.model, checkpoints), **given_)
        if hasattr(method, "projector_kwargs"):  # else 512 random dimensions
            method.projector_kwargs = None
            method.cache()
        else:
            method.cache(scores.loader(of.train, ITEMS, batch))
        found = method.attribute(scores.loader(of.train, ITEMS, batch), scores.loader(of.test, ITEMS, 5))
    return np.asarray(found.detach())


def test_gradients_equal_dattris() -> None:
    from dattri.algorithm import TracInAttributor

    of = small()
    expected = by_dattri(of, TracInAttributor, 8, weight_list=torch.ones(1), normalized_grad=False)
    assert np.allclose(scores.grad_dot(of), expected, atol=1e-5)
    assert np.allclose(scores.grad_dot(of), gradients(of, of.train) @ gradients(of, of.test).T, atol=1e-5)
    cosine = by_dattri(of, TracInAttributor, 8, weight_list=torch.ones(1), normalized_grad=True)
    assert np.allclose(scores.grad_cosine(of), cosine, atol=1e-5)


def test_tracin_is_the_mean_over_checkpoints() -> None:
    of = small()
    parts = [scores.dot(*(scores.layers(of.model, e, c) for e in (of.train, of.test))) for c in (0, 1)]
    assert not np.allclose(*parts, atol=1e-3)
    assert np.allclose(scores.tracin(of), np.mean(parts, axis=0), atol=1e-6)


@pytest.mark.parametrize(("damping", "steps"), [(3.0, 25), (10.0, 12)])
def test_conjugate_gradients_equal_the_explicit_inverse_of_the_hessian(damping: float, steps: int) -> None:
    of = small(damping=damping, steps=steps)
    damped = hessian(of) + damping * of.mean_eigenvalue * torch.eye(len(hessian(of)), dtype=torch.float64)
    assert torch.linalg.eigvalsh(damped)[0] > 0
    expected = gradients(of, of.train) @ torch.linalg.solve(damped, torch.from_numpy(gradients(of, of.test).T)).numpy()
    assert np.allclose(scores.cg(of), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_closed_form_datainf_equals_dattris() -> None:
    from dattri.algorithm import IFAttributorDataInf

    of = small(damping=2.0)
    damping = of.damping * of.mean_eigenvalue
    expected = by_dattri(of, IFAttributorDataInf, len(of.train), regularization=damping)
    assert np.allclose(scores.datainf(of), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 100), width=st.integers(1, 5), damping=st.floats(0.01, 2))
def test_ek_fac_is_exact_for_layers_with_one_output_or_one_input(seed: int, width: int, damping: float) -> None:
    """With constant output gradients or constant inputs, the Fisher matrix is a single covariance."""
    random = torch.Generator().manual_seed(seed)

    def layer(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(count, 1, generator=random), torch.randn(count, width, generator=random)

    back, given_ = layer(40)
    sampled, train_, test = (torch.sign(back), given_), layer(6), layer(3)
    fisher = given_.T @ given_ / 40 + damping * torch.eye(width)
    expected = (train_[0] * train_[1]) @ torch.linalg.solve(fisher, (test[0] * test[1]).T)
    found = scores.eigen_corrected(sampled, train_, test, damping)
    turned = scores.eigen_corrected(*((a, b) for b, a in (sampled, train_, test)), damping)
    assert np.allclose(found, expected, atol=1e-3 * max(1, float(expected.abs().max())))
    assert np.allclose(turned, expected, atol=1e-3 * max(1, float(expected.abs().max())))


def test_ek_fac_with_damping_only_is_the_sum_of_gradient_products_over_both_layers() -> None:
    of = small(damping=1e6)
    expected = scores.grad_dot(of) / (of.damping * of.mean_eigenvalue)
    assert np.allclose(scores.ek_fac(of), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_conjugate_gradients_beyond_convergence_are_an_error() -> None:
    with pytest.raises(FloatingPointError, match="fewer steps"):
        scores.cg(small(damping=10.0, steps=60))


def test_the_mean_eigenvalue_is_the_trace_of_the_fisher_matrix_over_the_parameters() -> None:
    """Compared with the expectation over all items of every example; the sample has many examples."""
    item = rows(users=400)
    examples = NextItemExamples.of(item, SETTINGS.recency)
    of = AttributionCase(train(examples, ITEMS, SETTINGS), examples, examples, 1.0, 1)
    trace = 0.0
    for code in range(ITEMS):
        as_if = NextItemExamples(np.full(len(examples), code), examples.before, examples.share)
        parts = scores.layers(of.model, as_if, -1)
        squares = sum(b.square().sum(1) * a.square().sum(1) for b, a in parts)
        trace += float((scores.log_probabilities(of.model, examples).detach().exp()[:, code] * squares).mean())
    assert of.mean_eigenvalue == pytest.approx(trace / (ITEMS * 2 + ITEMS * 3), rel=0.05)


@pytest.mark.parametrize("score", ["self_influence", "el2n", "grad_variance"])
def test_the_benchmark_and_the_denoiser_give_the_same_scores(score: str) -> None:
    item = rows()
    model = train(NextItemExamples.of(item, SETTINGS.recency), ITEMS, SETTINGS)
    assert len(model.negatives) == ITEMS
    examples = NextItemExamples.of(item, SETTINGS.recency)
    expected = scores.GRADIENTS[score](AttributionCase(model, examples, examples, 1.0, 1))[:, 0]
    name = required_fits("gradient")[0].name
    parts = ("source", "target", "negatives", "weight", "recency")
    nightly: Any = load("gradient", {f"{name}.{p}": getattr(model, p) for p in parts}, score=score)
    everything = np.ones(len(item.values), np.bool_)
    assert np.allclose(nightly.measure(histories(item), everything, everything), expected, rtol=1e-4, atol=1e-5)


def test_a_models_log_likelihood_is_the_negative_of_its_loss() -> None:
    of = small()
    task = scores.task(of.model)
    parameters, _ = task.get_param()
    data = scores.bags(of.test, ITEMS), torch.from_numpy(of.test.target)
    assert -scores.log_likelihood(of.model, of.test).mean() == pytest.approx(
        float(task.get_loss_func()(parameters, data).detach()), rel=1e-4
    )


def test_targets_are_last_events_and_not_training_examples() -> None:
    item = Ragged.from_lengths(np.arange(30, dtype=np.int32), [4, 6, 5, 8, 7])
    examples, test = split(item, 3, SETTINGS, 0)
    assert len(test) == 3
    assert set(test.target) <= set(item.values[item.offsets[1:] - 1])
    assert sorted([*examples.target, *test.target]) == list(range(30))


def test_bm25_uses_items_as_words() -> None:
    item = Ragged.from_lengths(np.array([1, 2, 3, 4, 5, 6, 1, 2, 3], np.int32), [3, 3, 3])
    examples = NextItemExamples.of(item, SETTINGS.recency)
    last = examples.take(np.array([8]))
    model = NextItemModel(*(np.zeros((1, ITEMS, 1), np.float32),) * 2, *(np.zeros(0),) * 3)
    found = scores.bm25(AttributionCase(model, examples, last, 1.0, 1))[:, 0]
    assert found[2] == found[8] == found.max()
    assert (found[3:6] == 0).all()
