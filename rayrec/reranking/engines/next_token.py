"""What every engine of the ways over text is: prompts in, log-probabilities of a few next tokens out.

    log_probs(prompts, ids)[i][j] = log softmax over the whole vocabulary ( logits after prompt i ) [ ids[j] ]

One list of ids for all prompts of a call. (vLLM pads shorter lists of a batch with token 0 at -inf, and an id 0 that
somebody asked for would read that.) At most 128 ids: vLLM's own bound, kept for both engines.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from rayrec.reranking.engines.engine import EngineSettings, Failure, Float32
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint

MAX_LOGPROB_IDS = 128


class NextTokenEngine(ABC):
    """Loaded once in an actor for the whole job."""

    name: ClassVar[str]

    def __init__(self, checkpoint: InstructCheckpoint, settings: EngineSettings, longest: int) -> None:
        """`longest`: tokens of the longest prompt wanted; the checkpoint's own bound may be lower."""
        self.longest = min(longest, int(checkpoint.config.max_position_embeddings) - 1)
        # Prompts: engine name -> answered, and "failed". What a way costs, for benchmarks and tests; no job reads it.
        self.prompt_counts: Counter[str] = Counter()
        self._vocabulary = int(checkpoint.config.vocab_size)

    @abstractmethod
    def next_token_log_probs(self, prompts: Sequence[list[int]], ids: Sequence[int]) -> list[Float32 | Failure]:
        """float32 [len(ids)] each. Prompts are valid, not empty and not too long.

        A prompt that the engine refuses is a Failure; an engine that breaks raises.
        """

    def log_probs(self, prompts: Sequence[list[int]], ids: Sequence[int]) -> list[Float32 | Failure]:
        """For each prompt the log-probability of each of `ids` as its next token, float32 [len(ids)], or a Failure."""
        if (
            not 1 <= len(ids) <= MAX_LOGPROB_IDS
            or len(set(ids)) < len(ids)
            or not 0 <= min(ids) <= max(ids) < self._vocabulary
        ):
            raise ValueError(f"between 1 and {MAX_LOGPROB_IDS} different token ids of the vocabulary are needed")
        found = [self._refusal(prompt) for prompt in prompts]
        good = [row for row, refusal in enumerate(found) if refusal is None]
        answers = dict(zip(good, self.next_token_log_probs([prompts[row] for row in good], ids), strict=True))
        out = [refusal or _finite(answers[row]) for row, refusal in enumerate(found)]
        failed = sum(isinstance(answer, Failure) for answer in out)
        self.prompt_counts.update({self.name: len(out) - failed} | ({"failed": failed} if failed else {}))
        return out

    def _refusal(self, prompt: Sequence[int]) -> Failure | None:
        if len(prompt) == 0:
            return Failure("the prompt is empty")
        if len(prompt) > self.longest:
            return Failure(f"the prompt has {len(prompt)} tokens, more than {self.longest}")
        if min(prompt) < 0 or max(prompt) >= self._vocabulary:
            return Failure("the prompt holds a token that the model does not know")
        return None


def _finite(answer: Float32 | Failure) -> Float32 | Failure:
    if isinstance(answer, Failure) or np.isfinite(answer).all():
        return answer
    return Failure("the model's answer is not finite")
