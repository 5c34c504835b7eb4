"""Baseline user vectors for the embedding benchmark, all from the same events before the cutoff."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse.linalg import svds
from torch import Tensor, nn

from rayrec.embeddings.rfm_features import features
from rayrec.embeddings.user_events import Events, Items
from rayrec.embeddings.word_vocabulary import words_of
from rayrec.numerics.hashing import derive_seed

WIDTH = 64  # of every learned vector, as of ours
_LENGTH = 50  # newest events in the input of the sequence model

Vectors = npt.NDArray[np.float64]


def baselines(events: Events, items: Items, seed: int) -> Iterator[tuple[str, Vectors]]:
    """(name, [users, width])."""
    yield "mean item text", mean_text(events, items)
    yield "iALS", ials(events, len(items.item_id), seed)
    yield "SASRec-like", sequence_state(events, len(items.item_id), seed)
    yield "RFM by hand", features(events, items)


def mean_text(events: Events, items: Items) -> Vectors:
    """The mean over positive events of the items' text vectors (latent semantic analysis of title and category)."""
    place: dict[str, int] = {}
    cells = [
        (row, place.setdefault(word, len(place))) for row, text in enumerate(items.text) for word in words_of(text)
    ]
    row, column = np.array(cells).T
    counts = sp.csr_matrix((np.ones(len(row)), (row, column)), shape=(len(items.text), len(place)))
    seen = np.asarray((counts > 0).sum(0)).ravel()
    weighed = counts @ sp.diags(np.log((1 + len(items.text)) / (1 + seen)))
    left, strength, _ = svds(weighed, k=min(WIDTH, min(weighed.shape) - 1), v0=np.ones(min(weighed.shape)))
    matrix = _matrix(events, len(items.text))
    total = np.maximum(np.asarray(matrix.sum(1)), 1)
    return np.asarray(matrix @ (left * strength) / total)


def ials(events: Events, items: int, seed: int) -> Vectors:
    """User factors of iALS (Hu, Koren & Volinsky 2008) by `implicit`."""
    model = AlternatingLeastSquares(WIDTH, regularization=10.0, alpha=10.0, iterations=15, random_state=seed)
    model.fit(_matrix(events, items).minimum(1).astype(np.float32).tocsr(), show_progress=False)
    return np.asarray(model.user_factors, np.float64)


def sequence_state(events: Events, items: int, seed: int, epochs: int = 10) -> Vectors:
    """The last hidden state of a causal transformer trained on the next item (after SASRec, 1808.09781).

    Two layers, full softmax over the items. Users without a positive event get zeros.
    """
    torch.manual_seed(derive_seed("sequence", seed) % 2**63)
    tokens = _sequences(events)
    model = _Sequence(items)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    rng = np.random.default_rng(seed)
    windows = np.flatnonzero((tokens > 0).sum(1) > 1)
    for _ in range(epochs):
        for rows in np.array_split(rng.permutation(windows), max(1, len(windows) // 64)):
            batch = torch.from_numpy(tokens[rows])
            states, target = model(batch[:, :-1]), batch[:, 1:]
            there = (target > 0) & (batch[:, :-1] > 0)
            loss = nn.functional.cross_entropy(states[there] @ model.items.weight.T, target[there])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    model.eval()
    found = np.zeros((len(tokens), WIDTH))
    with torch.no_grad():
        for start in range(0, len(tokens), 256):
            found[start : start + 256] = model(torch.from_numpy(tokens[start : start + 256]))[:, -1].numpy()
    found[tokens[:, -1] == 0] = 0
    return found


class _Sequence(nn.Module):
    """int64 [rows, length], left-padded with 0 -> [rows, length, WIDTH]."""

    def __init__(self, items: int) -> None:
        super().__init__()
        self.items = nn.Embedding(items + 1, WIDTH, padding_idx=0)
        nn.init.normal_(self.items.weight, std=0.05)
        self.places = nn.Parameter(torch.randn(_LENGTH, WIDTH) * 0.05)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, 0.2, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, nn.LayerNorm(WIDTH), enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).triu(1)
        hidden: Tensor = self.layers(self.items(tokens) + self.places[-length:], mask=causal)
        return hidden


def _sequences(events: Events) -> npt.NDArray[np.int64]:
    """The newest positives, code + 1, to the right of zeros: [users, _LENGTH]."""
    positive = events.filter(events.weight > 0)
    tokens = np.zeros((len(events), _LENGTH), np.int64)
    back = positive.offsets[1:][positive.user] - np.arange(len(positive.item))
    new = back <= _LENGTH
    tokens[positive.user[new], _LENGTH - back[new]] = positive.item[new] + 1
    return tokens


def _matrix(events: Events, items: int) -> sp.csr_matrix:
    """Positive events, [users, items], counted."""
    positive = events.filter(events.weight > 0)
    cells = positive.user, positive.item
    return sp.csr_matrix((np.ones(len(positive.item)), cells), shape=(len(events), items))
