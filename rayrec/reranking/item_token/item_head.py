"""Log-probabilities of items from hidden states: the output layer of the item-token ranker.

    score(item | prompt) = log softmax over all items ( s h . e_item )

    h   the final hidden state of the last token
    s   the logit_scale of the model card

Engines compute h; this layer is common float32 code, so that engines differ only in the forward pass. The softmax runs
over item tokens alone, as in tuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open

from rayrec.errors import DataError
from rayrec.reranking.engines.engine import Failure, Float32
from rayrec.reranking.item_token.tuned_checkpoint import LocalCheckpoint

_BLOCK = 64


class ItemHead:
    """Output layer: item vectors float32 [items, d]; item i is token `first_item + i`."""

    def __init__(self, vectors: torch.Tensor, first_item: int, device: str = "cpu") -> None:
        self._vectors = vectors.float().to(device).T.contiguous()
        self._first_item, self._device = first_item, device

    @classmethod
    def of(cls, model: LocalCheckpoint, device: str = "cpu") -> Self:
        vectors = item_vectors(model).float() * model.card.logit_scale
        return cls(vectors, model.card.vocabulary.first_item, device)

    def score(
        self, states: Sequence[Float32 | Failure], candidates: Sequence[Sequence[int]]
    ) -> list[Float32 | Failure]:
        """log P(candidate) for each state's candidates (item token ids), float32 [len(candidates[i])]; failures are
        passed on."""
        found = [
            state if isinstance(state, Failure) else self._refusal(tokens) or state
            for state, tokens in zip(states, candidates, strict=True)
        ]
        valid = [(row, state) for row, state in enumerate(found) if not isinstance(state, Failure)]
        items = [np.asarray(candidates[row], np.int64) - self._first_item for row, _ in valid]
        for (row, _), scores in zip(valid, self.log_probs([state for _, state in valid], items), strict=True):
            found[row] = scores
        return found

    def log_probs(self, states: Sequence[Float32], items: Sequence[npt.NDArray[np.int64]]) -> list[Float32]:
        """Log-probabilities of `items[i]` (item indices) from `states[i]` (float32 [d]). Rows are bit-independent of
        each other."""
        out: list[Float32] = []
        with torch.inference_mode():
            for start in range(0, len(states), _BLOCK):
                rows = states[start : start + _BLOCK]
                # Always a full block: a GEMM selects its kernel, and so the last bits, by the number of rows.
                block = torch.zeros(_BLOCK, self._vectors.shape[0])
                block[: len(rows)] = torch.from_numpy(np.stack(rows))
                logits = torch.log_softmax(block.to(self._device) @ self._vectors, dim=1)
                for row, wanted in enumerate(items[start : start + _BLOCK]):
                    out.append(logits[row, torch.from_numpy(wanted).to(self._device)].cpu().numpy())
        return out

    def _refusal(self, candidates: Sequence[int]) -> Failure | None:
        end = self._first_item + self._vectors.shape[1]
        if len(candidates) and not (self._first_item <= min(candidates) and max(candidates) < end):
            return Failure("a candidate is not an item that the model knows")
        return None


def item_vectors(model: LocalCheckpoint) -> torch.Tensor:
    """Rows of the output embedding that belong to items, [items, d], read from the safetensors files."""
    vocabulary = model.card.vocabulary
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        for file in sorted(Path(model.folder).glob("*.safetensors")):
            with safe_open(str(file), framework="pt") as tensors:
                if name in tensors.keys():  # noqa: SIM118 (not a dict)
                    rows: torch.Tensor = tensors.get_slice(name)[vocabulary.first_item : vocabulary.size]
                    return rows
    raise DataError("the checkpoint has no item embeddings", where=model.folder, hint="tune it again")
