"""What every engine is: prompts in, log-probabilities of candidate items out, one forward a prompt.

    score(candidate | prompt) = log softmax over all items ( h . e_item ),   h: the last token's final hidden state

The engines (vLLM, transformers) compute h; the item head is one piece of code here, in float32, so that engines can
only differ in the forward. The softmax runs over the items' tokens, as in tuning: words can never be the answer. Its
differences between candidates are those of the model's own logits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open

from rayrec.errors import DataError
from rayrec.reranking.item_token.tuned_checkpoint import LocalCheckpoint

Float32 = npt.NDArray[np.float32]
_BLOCK = 64


@dataclass(frozen=True)
class Failure:
    """A prompt that could not be scored, and why; the others of its batch could."""

    reason: str


@dataclass(frozen=True)
class EngineSettings:
    """How an engine runs; none of it changes a score beyond the dtype's rounding."""

    dtype: str = "auto"  # auto: as stored
    threads: int | None = None  # of a CPU engine; None: as torch finds them
    device: str = "cpu"  # "cuda" where a GPU is given
    longest: int | None = None  # tokens of the longest prompt to come, for memory; None: of the longest it can read
    vllm: dict[str, Any] = field(default_factory=dict)  # more arguments for vllm.LLM


class Engine(ABC):
    """Loaded once in an actor for the whole job."""

    name: ClassVar[str]
    longest: int  # tokens of the longest prompt

    def __init__(self, model: LocalCheckpoint, settings: EngineSettings) -> None:
        self._vocabulary = model.card.vocabulary
        self._head = ItemHead(item_vectors(model), settings.device)

    @abstractmethod
    def last_hidden_states(self, prompts: Sequence[list[int]]) -> list[Float32 | Failure]:
        """The final hidden state of each prompt's last token, float32 [d]. Prompts are valid token ids, not empty.

        A prompt that the engine refuses is a Failure; an engine that breaks raises.
        """

    def score(self, prompts: Sequence[list[int]], candidates: Sequence[Sequence[int]]) -> list[Float32 | Failure]:
        """log P(candidate) for each prompt's candidates (token ids of items), float32 [len(candidates[i])]."""
        return self.score_states(self.states(prompts), candidates)

    def states(self, prompts: Sequence[list[int]]) -> list[Float32 | Failure]:
        """`hidden` of the prompts that can be read; of the others why they cannot."""
        found: list[Float32 | Failure] = [self._refusal(prompt) or Failure("not read") for prompt in prompts]
        rows = [row for row, answer in enumerate(found) if answer == Failure("not read")]
        for row, state in zip(rows, self.last_hidden_states([prompts[row] for row in rows]), strict=True):
            found[row] = state
        return found

    def score_states(
        self, states: Sequence[Float32 | Failure], candidates: Sequence[Sequence[int]]
    ) -> list[Float32 | Failure]:
        """log P(candidate) for each state's candidates (token ids of items), float32 [len(candidates[i])]."""
        found = [self._unscored(state, tokens) or state for state, tokens in zip(states, candidates, strict=True)]
        good = [(row, state) for row, state in enumerate(found) if not isinstance(state, Failure)]
        wanted = [np.asarray(candidates[row], np.int64) - self._vocabulary.first_item for row, _ in good]
        for (row, _), scores in zip(good, self._head.log_probs([state for _, state in good], wanted), strict=True):
            found[row] = scores
        return found

    def _refusal(self, prompt: Sequence[int]) -> Failure | None:
        if len(prompt) == 0:
            return Failure("the prompt is empty")
        if len(prompt) > self.longest:
            return Failure(f"the prompt has {len(prompt)} tokens, more than the model's {self.longest}")
        if min(prompt) < 0 or max(prompt) >= self._vocabulary.size:
            return Failure("the prompt holds a token that the model does not know")
        return None

    def _unscored(self, state: Float32 | Failure, candidates: Sequence[int]) -> Failure | None:
        if isinstance(state, Failure):
            return state
        if not np.isfinite(state).all():
            return Failure("the model's answer is not finite")
        first, end = self._vocabulary.first_item, self._vocabulary.size
        if len(candidates) and not (first <= min(candidates) and max(candidates) < end):
            return Failure("a candidate is not an item that the model knows")
        return None


class ItemHead:
    """The items' output vectors, float32 [items, d], and their softmax."""

    def __init__(self, vectors: torch.Tensor, device: str = "cpu") -> None:
        self._vectors = vectors.float().to(device).T.contiguous()
        self._device = device

    def log_probs(self, states: Sequence[Float32], wanted: Sequence[npt.NDArray[np.int64]]) -> list[Float32]:
        """states: float32 [d] each; wanted: item indices each. A row's bits do not depend on the other rows."""
        out: list[Float32] = []
        with torch.inference_mode():
            for start in range(0, len(states), _BLOCK):
                rows = states[start : start + _BLOCK]
                # Always a full block: a GEMM chooses its kernel by the number of rows, and the last bits with it.
                block = torch.zeros(_BLOCK, self._vectors.shape[0])
                block[: len(rows)] = torch.from_numpy(np.stack(rows))
                logits = torch.log_softmax(block.to(self._device) @ self._vectors, dim=1)
                for row, items in enumerate(wanted[start : start + _BLOCK]):
                    out.append(logits[row, torch.from_numpy(items).to(self._device)].cpu().numpy())
        return out


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
