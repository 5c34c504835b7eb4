"""Warm start of a tuning: the first weights come from the model that an earlier run tuned (its ancestor).

    layers     copied
    words      copied where both tokenizers have the token
    items      copied by item id; an item that the ancestor did not know starts where a ridge regression from the usual
               first vectors to the ancestor's vectors, fitted on the items of both, puts it

The ancestor is used if it has the same architecture and base and if consumption has not shifted (after TAME, which
chooses between old and new models by the shift of the data): the total variation distance between the items' shares
of the events in the `SHIFT_DAYS` before the ancestor's cutoff and before the new one. It is 0 for equal shares, 1 if no
item is in both. A shop of few events has a large distance by chance, and starts cold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor

from rayrec.config import Tuning
from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.reranking.item_token.item_lm import ItemLM
from rayrec.reranking.item_token.tuned_checkpoint import LocalCheckpoint, ModelCard
from rayrec.reranking.training.tuning_examples import Sequences

SHIFT_DAYS = 28.0
_ARCHITECTURE = ("layers", "width", "heads", "feedforward")  # of a model from scratch
_RIDGE = 1e-2  # of the mean square of the usual first vectors


@dataclass(frozen=True)
class Ancestor:
    """The tuned model of an earlier run: its path below the root, its cutoff (µs UTC), and a digest of its files."""

    path: str
    cutoff: int
    digest: str


def same_scheme(card: ModelCard, settings: Tuning, base: str) -> bool:
    """Whether a model of these settings can start from the card's. `base`: as in the card."""
    if card.base != base:
        return False
    return base != "scratch" or all(card.settings.get(key) == getattr(settings, key) for key in _ARCHITECTURE)


def consumption_shift(events: Sequences, then: int, now: int) -> float:
    """Total variation distance, 0 to 1, between the items' shares of events before `then` and before `now` (µs)."""
    items, ts = events.item.values, events.ts.values
    size, period = int(items.max(initial=0)) + 1, int(SHIFT_DAYS * MICROSECONDS_PER_DAY)
    shares = []
    for end in (then, now):
        counts = np.bincount(items[(ts >= end - period) & (ts < end)], minlength=size)
        if not counts.sum():
            return 1.0
        shares.append(counts / counts.sum())
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


def start_from(lm: ItemLM, ancestor: LocalCheckpoint, item_ids: Sequence[str], tokenizer_json: Path) -> None:
    """Set the weights of `lm`, which has its usual first ones. `item_ids`: its items, in the order of their tokens."""
    card, tensors = ancestor.card, _tensors(Path(ancestor.folder))
    (table,) = [tensor for name, tensor in tensors.items() if name.endswith("embed_tokens.weight")]
    with torch.no_grad():
        if card.base == "scratch":  # else `lm` was built on the ancestor's layers and words
            _copy_layers(lm, tensors)
            _copy_words(lm, table, Path(ancestor.folder) / "tokenizer.json", tokenizer_json)
        old = card.vocabulary
        lm.marks.copy_(table[old.user : old.first_item])
        _copy_items(lm, table[old.first_item : old.size], card, item_ids)
    lm.logit_scale = card.logit_scale


def _copy_items(lm: ItemLM, vectors: Tensor, card: ModelCard, item_ids: Sequence[str]) -> None:
    """The own parts: the ancestor's vectors without the words that `lm` adds to them."""
    place = {item: row for row, item in enumerate(card.item_ids)}
    rows = np.array([place.get(item, -1) for item in item_ids])
    own, tuned = len(lm.items), card.own_vectors or len(card.item_ids)
    shared = np.flatnonzero((rows[:own] >= 0) & (rows[:own] < tuned))
    added = lm.word_vectors()
    target = vectors[rows[shared]] - added[shared]
    if not len(shared):
        return
    usual = torch.nn.functional.pad(lm.items.detach(), (0, 1), value=float(lm.marks.std()))  # with an intercept
    known = usual[shared].double()
    gram = known.T @ known
    gram.diagonal().add_(_RIDGE * gram.diagonal().mean())
    lm.items.copy_((usual.double() @ torch.linalg.solve(gram, known.T @ target.double())).float())
    lm.items[torch.from_numpy(shared)] = target
    new = np.flatnonzero(rows[own:] >= tuned) + own
    if lm.new is not None and len(new):
        lm.new.copy_((vectors[rows[new]] - added[new]).mean(0))


def _copy_layers(lm: ItemLM, tensors: Mapping[str, Tensor]) -> None:
    for name, parameter in lm.causal.named_parameters():
        if name in tensors and tensors[name].shape == parameter.shape and "embed_tokens" not in name:
            parameter.copy_(tensors[name])


def _copy_words(lm: ItemLM, old_table: Tensor, old_tokenizer: Path, tokenizer: Path) -> None:
    old, new = (
        Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=False) for path in (old_tokenizer, tokenizer)
    )
    both = [(new[word], old[word]) for word in sorted(new.keys() & old.keys())]
    if both:
        to, of = torch.tensor(both).T
        lm.causal.get_input_embeddings().weight[to] = old_table[of]


def _tensors(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), framework="pt") as opened:
            found |= {name: opened.get_tensor(name).float() for name in opened.keys()}  # noqa: SIM118 (not a dict)
    return found
