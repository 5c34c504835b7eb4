"""Attribution scores of training examples for targets, [examples, targets]; higher is more helpful.

The model is the next-item model (rayrec.numerics.next_item_model) with a softmax over all items of a small catalogue.
In each of its two matrices an example's gradient is an outer product b a' of the backward part (b: delta [items], v
[d]) and the input (a: h [d + 1], x [items]). Products of gradients, DataInf and EK-FAC follow in closed form. dattri
0.3.0 computes the conjugate gradients; it needs all training examples in one batch and does not stop at convergence.
The closed forms are checked against dattri in tests/denoising/test_attribution.py. Its EK-FAC is not used: it rotates
into the rows of matrices whose columns are the eigenvectors, and is wrong even for a layer with one output, where
EK-FAC is exact.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rayrec.instructions.bm25 import Bm25
from rayrec.numerics.next_item_model import NextItemModel
from rayrec.retrieval.next_item import NextItemExamples

_TARGETS = 5  # whose conjugate gradients are computed at once: about 20 arrays of so many by examples by items

Floats = npt.NDArray[np.float32]
Layer = tuple[Tensor, Tensor]  # b [n, out], a [n, in]


@dataclass(frozen=True)
class AttributionCase:
    """A model, the examples it was trained on, and the targets."""

    model: NextItemModel  # every item is among its negatives
    train: NextItemExamples
    test: NextItemExamples
    damping: float  # of Hessians, as a multiple of the Fisher matrix's mean eigenvalue
    steps: int  # of conjugate gradients

    @property
    def items(self) -> int:
        return self.model.target.shape[1]

    @cached_property
    def last(self) -> tuple[tuple[Layer, Layer], tuple[Layer, Layer]]:
        """The gradients of the training examples and of the targets, at the last checkpoint."""
        return layers(self.model, self.train, -1), layers(self.model, self.test, -1)

    @cached_property
    def mean_eigenvalue(self) -> float:
        """Of the Fisher matrix of both layers: its trace over the number of parameters."""
        sampled = layers(self.model, _sampled(self.model, self.train), -1)
        trace = sum((back.square().sum(1) * given.square().sum(1)).mean() for back, given in sampled)
        return float(trace) / (self.model.source[-1].size + self.model.target[-1].size)


def bags(examples: NextItemExamples, items: int) -> Tensor:
    """x [n, items]."""
    bag = torch.zeros(len(examples), items)
    return bag.scatter_add_(1, torch.from_numpy(examples.before), torch.from_numpy(examples.share))


def log_probabilities(model: NextItemModel, examples: NextItemExamples, checkpoint: int = -1) -> Tensor:
    """[n, items]"""
    return torch.log_softmax(_module(model, checkpoint)(bags(examples, model.target.shape[1])), 1)


def log_likelihood(model: NextItemModel, examples: NextItemExamples) -> Floats:
    """log p of each example's own item, [n]."""
    with torch.inference_mode():
        found = log_probabilities(model, examples).numpy()
    likelihood: Floats = found[np.arange(len(examples)), examples.target]
    return likelihood


def layers(model: NextItemModel, examples: NextItemExamples, checkpoint: int) -> tuple[Layer, Layer]:
    """The parts of each example's gradient in `target` and in `source`."""
    with torch.inference_mode():
        source, target = torch.from_numpy(model.source[checkpoint]), torch.from_numpy(model.target[checkpoint])
        bag = bags(examples, len(source))
        delta = log_probabilities(model, examples, checkpoint).exp()
        delta[torch.arange(len(examples)), torch.from_numpy(examples.target)] -= 1
        return (delta, _hidden(bag @ source)), (delta @ target[:, :-1], bag)


def dot(train: tuple[Layer, ...], test: tuple[Layer, ...]) -> Floats:
    """The products of gradients, [train, test]."""
    parts = [(b @ d.T) * (a @ c.T) for (b, a), (d, c) in zip(train, test, strict=True)]
    return np.asarray(torch.stack(parts).sum(0))


def grad_dot(of: AttributionCase) -> Floats:
    return dot(*of.last)


def grad_cosine(of: AttributionCase) -> Floats:
    train, test = of.last
    return dot(train, test) / np.sqrt(_squares(train)[:, None] * _squares(test))


def tracin(of: AttributionCase) -> Floats:
    parts = [dot(layers(of.model, of.train, c), layers(of.model, of.test, c)) for c in range(of.model.checkpoints)]
    return np.mean(parts, axis=0)


def ek_fac(of: AttributionCase) -> Floats:
    """g'(F + damping)^-1 g_target, F the Fisher matrix in each layer's Kronecker-factored eigenbasis."""
    train, test = of.last
    sampled = layers(of.model, _sampled(of.model, of.train), -1)
    damping = of.damping * of.mean_eigenvalue
    parts = [eigen_corrected(*layer, damping) for layer in zip(sampled, train, test, strict=True)]
    return np.sum(parts, axis=0)


def eigen_corrected(sampled: Layer, train: Layer, test: Layer, damping: float) -> Floats:
    """EK-FAC of one layer, [train, test]; `sampled`: gradients whose second moments are F."""
    bases = [torch.linalg.eigh(part.T @ part / len(part)).eigenvectors for part in sampled]
    (b, a), (d, c), (back, given) = (
        tuple(part @ basis for part, basis in zip(layer, bases, strict=True)) for layer in (train, test, sampled)
    )
    inverse = 1 / (back.square().T @ given.square() / len(back) + damping)  # [out, in]
    return np.stack([(((b * one) @ inverse) * a) @ other for one, other in zip(d, c, strict=True)], axis=1)


def cg(of: AttributionCase) -> Floats:
    """g'(H + damping)^-1 g_target, H the Hessian of the mean loss, by conjugate gradients: dattri's."""
    from dattri.algorithm import IFAttributorCG

    damping = of.damping * of.mean_eigenvalue
    train, test = loader(of.train, of.items, len(of.train)), loader(of.test, of.items, _TARGETS)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # progress bars
        warnings.simplefilter("ignore")
        method = IFAttributorCG(task(of.model), max_iter=of.steps, regularization=damping)
        method.cache(train)
        found = np.asarray(method.attribute(train, test).detach())
    if not np.isfinite(found).all():
        raise FloatingPointError("conjugate gradients went on after they had converged: take fewer steps")
    return found


def datainf(of: AttributionCase) -> Floats:
    """DataInf (Kwon et al. 2024): F's inverse, layer by layer, as the mean of the inverses of its summands."""
    damping = of.damping * of.mean_eigenvalue
    return np.sum([_mean_inverse(*layer, damping) for layer in zip(*of.last, strict=True)], axis=0)


def _mean_inverse(train: Layer, test: Layer, damping: float) -> Floats:
    """g'mean_i(damping + g_i g_i')^-1 g_target in one layer, by Sherman & Morrison: [train, test]."""
    among, toward = dot((train,), (train,)), dot((train,), (test,))
    return (toward - (among / (damping + among.diagonal())) @ toward / len(among)) / damping


def self_influence(of: AttributionCase) -> Floats:
    """How much is learned from an example, for whatever target."""
    parts = [_squares(layers(of.model, of.train, checkpoint)) for checkpoint in range(of.model.checkpoints)]
    return _whatever_target(np.mean(parts, axis=0), of)


def el2n(of: AttributionCase) -> Floats:
    return _whatever_target(of.last[0][0][0].norm(dim=1).numpy(), of)


def grad_variance(of: AttributionCase) -> Floats:
    back = torch.stack([layers(of.model, of.train, c)[1][0] for c in range(of.model.checkpoints)])
    return _whatever_target(back.std(0, correction=0).mean(1).numpy(), of)


def bm25(of: AttributionCase) -> Floats:
    """Examples as texts whose words are their items."""
    return Bm25(_texts(of.train)).scores(_texts(of.test)).T


def popularity(of: AttributionCase) -> Floats:
    """How often the example's item is one."""
    return _whatever_target(np.bincount(of.train.target)[of.train.target], of)


def same_item(of: AttributionCase) -> Floats:
    return (of.train.target[:, None] == of.test.target).astype(np.float32)


GRADIENTS: Mapping[str, Callable[[AttributionCase], Floats]] = {
    "grad_dot": grad_dot,
    "grad_cosine": grad_cosine,
    "tracin": tracin,
    "ek_fac": ek_fac,
    "cg": cg,
    "datainf": datainf,
    "self_influence": self_influence,
    "el2n": el2n,
    "grad_variance": grad_variance,
}
BASELINES: Mapping[str, Callable[[AttributionCase], Floats]] = {
    "BM25": bm25,
    "popularity": popularity,
    "same item": same_item,
}


class LogBilinear(torch.nn.Module):
    """The model as dattri needs it: two linear maps without biases."""

    def __init__(self, items: int, width: int) -> None:
        super().__init__()
        self.source = torch.nn.Linear(items, width, bias=False)
        self.target = torch.nn.Linear(width + 1, items, bias=False)

    def forward(self, bag: Tensor) -> Tensor:
        """[n, items] to [n, items]."""
        scores: Tensor = self.target(_hidden(self.source(bag)))
        return scores


def task(model: NextItemModel, checkpoints: slice = slice(-1, None)) -> Any:
    """The mean cross-entropy of (x, y) under these checkpoints, as dattri's AttributionTask."""
    from dattri.task import AttributionTask

    modules = [_module(model, checkpoint) for checkpoint in range(model.checkpoints)[checkpoints]]

    def loss(parameters: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        bag, own = data
        scores = torch.func.functional_call(modules[0], parameters, bag)
        return torch.nn.functional.cross_entropy(scores.reshape(-1, scores.shape[-1]), own.reshape(-1))

    return AttributionTask(loss, modules[0], [module.state_dict() for module in modules])


def loader(examples: NextItemExamples, items: int, batch: int) -> Any:
    data = torch.utils.data.TensorDataset(bags(examples, items), torch.from_numpy(examples.target))
    return torch.utils.data.DataLoader(data, batch_size=batch)


def _module(model: NextItemModel, checkpoint: int) -> LogBilinear:
    items, width = model.source.shape[1:]
    module = LogBilinear(items, width)
    source, target = torch.from_numpy(model.source[checkpoint].T.copy()), torch.from_numpy(model.target[checkpoint])
    module.load_state_dict({"source.weight": source, "target.weight": target})
    return module


def _hidden(context: Tensor) -> Tensor:
    return torch.cat([context, torch.ones_like(context[..., :1])], -1)


def _sampled(model: NextItemModel, examples: NextItemExamples) -> NextItemExamples:
    """The same contexts with items drawn from the model, whose gradients have the Fisher matrix as second moment."""
    with torch.inference_mode():
        chance = log_probabilities(model, examples).exp()
        drawn = torch.multinomial(chance, 1, generator=torch.Generator().manual_seed(0)).squeeze(1)
    return NextItemExamples(drawn.numpy(), examples.before, examples.share)


def _squares(of: tuple[Layer, ...]) -> Floats:
    return np.asarray(torch.stack([b.square().sum(1) * a.square().sum(1) for b, a in of]).sum(0))


def _whatever_target(score: npt.NDArray[Any], of: AttributionCase) -> Floats:
    return np.repeat(score.astype(np.float32)[:, None], len(of.test), axis=1)


def _texts(examples: NextItemExamples) -> list[str]:
    rows = zip(examples.target, examples.before, examples.share, strict=True)
    return [" ".join(map(str, [own, *before[share > 0]])) for own, before, share in rows]
