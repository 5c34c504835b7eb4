"""Training losses of the user model: contrastive (user near answer) and autoregressive (answer words)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def info_nce(
    user: Tensor, answer: Tensor, own: Tensor, contrary: Tensor, temperature: float, false_negative_margin: float
) -> Tensor:
    """InfoNCE with in-batch negatives and Q-Anchor's false-negative mask; nats per example.

    user [n, dim] and answer [m, dim] are unit vectors; own int64 [n]: each user's answer. All other distinct answers of
    the batch are negatives, except likely false ones: those whose similarity exceeds that of the own answer by more
    than the margin. contrary bool [n, m] marks negatives that are certainly wrong (the opposite answer to the same
    question); they are never masked, because the mask would remove exactly the examples that the model gets wrong.
    """
    similarity = user @ answer.T
    rows = torch.arange(len(user))
    right = similarity[rows, own]
    false_negative = similarity.detach() > right.detach()[:, None] + false_negative_margin
    false_negative = false_negative & ~contrary
    false_negative[rows, own] = False
    return nn.functional.cross_entropy((similarity / temperature).masked_fill(false_negative, -torch.inf), own)


def answer_nll(logits: Tensor, words: Tensor, example: Tensor, closed: Tensor) -> Tensor:
    """Negative log likelihood of the answers' words, nats; mean over examples.

    logits [words, vocabulary], words int64 [words], example int64 [words]: the example of each word; closed bool
    [examples]. An open answer counts with the mean of its words. A closed answer (yes or no) counts with their sum,
    because only its first word is uncertain.
    """
    loss = nn.functional.cross_entropy(logits, words, reduction="none")
    count = torch.bincount(example, minlength=len(closed)).clamp_min(1)
    count = torch.where(closed, torch.ones_like(count), count)
    return (loss / count[example]).sum() / len(closed)
