"""An engine that answers from the text of a prompt, without a model: what a scorer makes of known answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tokenizers import Tokenizer

from rayrec.reranking.engines.engine import Engine, EngineSettings, Failure, Float32
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint


class Oracle(Engine):
    name = "oracle"

    def __init__(self, checkpoint: InstructCheckpoint, answer: Callable[[str, int], list[float] | None]) -> None:
        """`answer`: the prompt's text and the number of ids -> logits of the first of them, None: it fails."""
        super().__init__(checkpoint.model_files, "next_token", EngineSettings(), 2000)
        self._reader = Tokenizer.from_file(str(checkpoint.folder / "tokenizer.json"))
        self._answer = answer
        self.prompts: list[str] = []
        self.calls = 0

    def _next_token_log_probs(self, prompts: Sequence[list[int]], ids: Sequence[int]) -> list[Float32 | Failure]:
        self.calls += 1
        return [self._one(self._reader.decode(prompt, skip_special_tokens=False), len(ids)) for prompt in prompts]

    def _last_hidden_states(self, prompts: Sequence[list[int]]) -> list[Float32 | Failure]:
        raise NotImplementedError

    def _one(self, text: str, count: int) -> Float32 | Failure:
        self.prompts.append(text)
        logits = self._answer(text, count)
        if logits is None:
            return Failure("it would not be read")
        row = np.full(count, -30.0)
        row[: len(logits)] = logits
        return (row - np.logaddexp.reduce(row)).astype(np.float32)
