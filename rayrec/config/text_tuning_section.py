"""`text_tuning`: how a text reranker's adapter is tuned (`rerank.adapter: tuned`)."""

from __future__ import annotations

from pydantic import Field

from rayrec.config.section import Section


class TextTuning(Section):
    """Tunes a LoRA adapter of `rerank.checkpoint` with the questions that its text reranker asks, answered by what
    users then consumed. For arms with `rerank.adapter: tuned`."""

    max_users: int = Field(2_000, ge=1)
    """Maximum number of users with an example, sampled by a stable hash. The cost grows with it."""
    negatives: int = Field(4, ge=1)
    """Candidates of the retrievers in an example that the user did not consume, beside one that the user did."""
    epochs: int = Field(1, ge=1)
    """How often each user is in an example, each time with other candidates."""
    batch_users: int = Field(4, ge=1)
    """Users per step. Bounds memory."""
    learning_rate: float = Field(5e-4, gt=0)
    """Peak learning rate, after the warm-up."""
    lora_rank: int = Field(8, ge=1, le=512)
    """Rank of the LoRA adapter."""
    layers: int | None = Field(None, ge=1)
    """Number of last layers with an adapter; `null`: all. The backward pass ends at the first of them, so half of the
    layers cost three quarters of the time."""
    seed: int = 0
    """Seed of all random numbers of the tuning."""
