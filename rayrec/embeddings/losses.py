"""What the model learns from: answers told apart (contrastive), and answers said word by word (autoregressive)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def info_nce(
    user: Tensor, answer: Tensor, own: Tensor, contrary: Tensor, temperature: float, false_negative_margin: float
) -> Tensor:
    """InfoNCE with in-batch negatives and the mask of Q-Anchor; nats an example.

    user [n, dim] and answer [m, dim] are unit vectors; own int64 [n]: the answer of each user's example; every other of
    the batch's distinct answers is a negative, unless its similarity exceeds that of the own one by more than the
    margin: then it is held for one that is right, too. contrary bool [n, m]: negatives that certainly are (the other
    verdict on the same question), which the mask leaves in: it would silence exactly the examples that the model gets
    wrong.
    """
    similarity = user @ answer.T
    rows = torch.arange(len(user))
    right = similarity[rows, own]
    doubtful = similarity.detach() > right.detach()[:, None] + false_negative_margin
    doubtful = doubtful & ~contrary
    doubtful[rows, own] = False
    return nn.functional.cross_entropy((similarity / temperature).masked_fill(doubtful, -torch.inf), own)


def answer_nll(logits: Tensor, words: Tensor, example: Tensor, closed: Tensor) -> Tensor:
    """Negative log likelihood of the answers' words, nats, the mean over examples.

    logits [words, spoken], words int64 [words], example int64 [words]: whose word it is; closed bool [examples]. An
    open answer counts by the mean of its words; a closed one by their sum, for only its first word, the verdict, is in
    question.
    """
    loss = nn.functional.cross_entropy(logits, words, reduction="none")
    count = torch.bincount(example, minlength=len(closed)).clamp_min(1)
    count = torch.where(closed, torch.ones_like(count), count)
    return (loss / count[example]).sum() / len(closed)
