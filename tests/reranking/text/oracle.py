"""An engine that reads the words of a prompt instead of running a model: what a way makes of known answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tokenizers import Tokenizer

from rayrec.reranking.engines.engine import EngineSettings, Failure, Float32
from rayrec.reranking.engines.next_token import NextTokenEngine
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint


class Oracle(NextTokenEngine):
    name = "oracle"

    def __init__(self, checkpoint: InstructCheckpoint, answer: Callable[[str, int], list[float] | None]) -> None:
        """`answer`: the prompt's text and the number of ids -> logits of the first of them, None: it fails."""
        super().__init__(checkpoint, EngineSettings(), 2000)
        self._reader = Tokenizer.from_file(str(checkpoint.folder / "tokenizer.json"))
        self._answer = answer
        self.heard: list[str] = []
        self.calls = 0

    def next_token_log_probs(self, prompts: Sequence[list[int]], ids: Sequence[int]) -> list[Float32 | Failure]:
        self.calls += 1
        return [self._one(self._reader.decode(prompt, skip_special_tokens=False), len(ids)) for prompt in prompts]

    def _one(self, text: str, count: int) -> Float32 | Failure:
        self.heard.append(text)
        logits = self._answer(text, count)
        if logits is None:
            return Failure("it would not be read")
        row = np.full(count, -30.0)
        row[: len(logits)] = logits
        return (row - np.logaddexp.reduce(row)).astype(np.float32)
