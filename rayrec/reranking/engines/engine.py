"""The interface of an LLM engine: prompts as token ids in, hidden states or next-token log-probabilities out.

`vllm_runner` and `transformers_runner` implement it and agree within rounding. Item tokens are scored from hidden
states (`rayrec.reranking.item_token.item_head`), texts from next-token log-probabilities (`rayrec.reranking.text`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Task = Literal["hidden_state", "next_token", "json"]

MAX_LOGPROB_IDS = 128
"""Most token ids in one call of `next_token_log_probs`, for both engines: the limit of vLLM 0.29."""


@dataclass(frozen=True)
class Failure:
    """The reason why a prompt has no result. Other prompts of the batch are not affected."""

    reason: str


@dataclass(frozen=True)
class EngineSettings:
    """The settings of an engine. They change scores only by the rounding of the dtype."""

    dtype: str = "auto"  # auto: dtype of the stored weights
    threads: int | None = None  # CPU only; None: torch's default
    device: str = "cpu"  # or "cuda"
    gpu_share: float = 1.0  # of each of its GPUs' memory; below 1 where other engines use them too
    vllm: dict[str, Any] = field(default_factory=dict)  # further arguments of vllm.LLM (see check_vllm_arguments)


@dataclass(frozen=True)
class ModelFiles:
    """The local files of a checkpoint, and its limits."""

    folder: str
    dtype: str  # of the stored weights; "auto": the engine detects it
    vocabulary_size: int  # token ids of prompts are below it
    max_positions: int  # tokens of a prompt and its generated text
    adapter: str | None = None  # folder of a PEFT LoRA adapter
    lora_rank: int = 0


@dataclass(frozen=True)
class EngineWork:
    """What engines computed."""

    prompts: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of them, those that the prefix cache had; 0 where the engine does not tell

    def __add__(self, other: EngineWork) -> EngineWork:
        return EngineWork(
            self.prompts + other.prompts,
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
        )


_work: dict[str, EngineWork] = {}  # of this process, by the engine's name, since the last `take_work`


def take_work() -> dict[str, EngineWork]:
    """What the engines of this process computed since the last call, by the engine's name."""
    taken = dict(_work)
    _work.clear()
    return taken


class Engine(ABC):
    """A loaded model, which an actor holds for the whole job."""

    name: ClassVar[str]

    def __init__(
        self,
        model: ModelFiles,
        task: Task,
        settings: EngineSettings,
        max_prompt_tokens: int | None = None,
        new_tokens: int | None = None,
    ) -> None:
        """Load the model. `max_prompt_tokens` bounds memory; None: the model's limit. `new_tokens`: generated per
        prompt, for task "json"."""
        self.new_tokens = {"hidden_state": 0, "next_token": 1}.get(task, new_tokens or 0)
        longest = model.max_positions - self.new_tokens
        self.max_prompt_tokens = min(longest, max_prompt_tokens or longest)
        self.device = settings.device
        self._dtype = model.dtype if settings.dtype == "auto" else settings.dtype
        self._vocabulary_size = model.vocabulary_size

    def last_hidden_states(self, prompts: Sequence[list[int]]) -> list[Float32 | Failure]:
        """The final hidden state of each prompt's last token, float32 [d], for task "hidden_state".

        A prompt that cannot be computed gives a Failure; a broken engine raises.
        """
        return self._checked(prompts, self._last_hidden_states)

    def next_token_log_probs(self, prompts: Sequence[list[int]], ids: Sequence[int]) -> list[Float32 | Failure]:
        """Log-probability, over the whole vocabulary, of each of `ids` as a prompt's next token, float32 [len(ids)].

        For task "next_token"; failures as in `last_hidden_states`. All prompts share one list of ids, because vLLM pads
        shorter lists of a batch with token 0 at -inf. Raises ValueError for more than MAX_LOGPROB_IDS ids.
        """
        distinct, size = len(set(ids)) == len(ids), self._vocabulary_size
        if not (1 <= len(ids) <= MAX_LOGPROB_IDS and distinct and 0 <= min(ids) <= max(ids) < size):
            raise ValueError(f"between 1 and {MAX_LOGPROB_IDS} different token ids of the vocabulary are needed")
        return self._checked(prompts, lambda valid: self._next_token_log_probs(valid, ids))

    @abstractmethod
    def _last_hidden_states(self, prompts: Sequence[list[int]]) -> list[Float32 | Failure]:
        """`last_hidden_states` for valid prompts."""

    @abstractmethod
    def _next_token_log_probs(self, prompts: Sequence[list[int]], ids: Sequence[int]) -> list[Float32 | Failure]:
        """`next_token_log_probs` for valid prompts."""

    def _checked(
        self, prompts: Sequence[list[int]], run: Callable[[Sequence[list[int]]], list[Float32 | Failure]]
    ) -> list[Float32 | Failure]:
        refused = [self._refusal(prompt) for prompt in prompts]
        valid = [prompt for prompt, refusal in zip(prompts, refused, strict=True) if refusal is None]
        results = iter(run(valid))
        self._count(EngineWork(len(valid), sum(map(len, valid))))
        return [refusal or _finite(next(results)) for refusal in refused]

    def _count(self, work: EngineWork) -> None:
        _work[self.name] = _work.get(self.name, EngineWork()) + work

    def _refusal(self, prompt: Sequence[int]) -> Failure | None:
        if len(prompt) == 0:
            return Failure("the prompt is empty")
        if len(prompt) > self.max_prompt_tokens:
            return Failure(f"the prompt has {len(prompt)} tokens, more than {self.max_prompt_tokens}")
        if min(prompt) < 0 or max(prompt) >= self._vocabulary_size:
            return Failure("the prompt holds a token that the model does not know")
        return None


def _finite(result: Float32 | Failure) -> Float32 | Failure:
    if isinstance(result, Failure) or np.isfinite(result).all():
        return result
    return Failure("the model's answer is not finite")
