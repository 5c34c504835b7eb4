"""The model (after InstructUE, arXiv 2510.11016): one vector a user, for a purpose that is said in words.

    view -> encoder -> one summary ─ adapter ─┐
    view -> encoder -> one summary ─ adapter ─┤  <events> s </events> <profile> s </profile> . instruction <USER> answer
    view is missing -> a learned vector ──────┘  the user's prefix, the same for all instructions

The last hidden state at <USER>, projected to unit length, is the embedding. The prefix does not depend on the
instruction, which comes last: its keys and values are computed once and serve every instruction. An answer has a vector
too, of its own words and <ANSWER>, by the same language model.

Every sequence has as many tokens as any other of its instruction, and padding stands to the right or is masked, so no
user is seen by another. Fed in batches of one shape, a user's vector has the same bits in whatever company.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rayrec.config.embeddings_section import EmbeddingModel
from rayrec.embeddings.language_model import INIT_STD, language
from rayrec.embeddings.view_vocabulary import PAD
from rayrec.numerics.hashing import derive_seed


class Block(nn.Module):
    """A pre-norm transformer layer in which every line sees every line that is there; dense shapes only."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, lines: Tensor, there: Tensor) -> Tensor:
        rows, length, width = lines.shape
        parts = self.qkv(self.before(lines)).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mask = there[:, None, None, :].expand(rows, 1, length, length)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        lines = lines + self.out(seen.transpose(1, 2).reshape(rows, length, width))
        added: Tensor = self.narrow(nn.functional.gelu(self.wide(self.between(lines))))
        return lines + added


class Encoder(nn.Module):
    """Lines of one source -> its summary: a learned token that looks at all of them."""

    def __init__(self, settings: EmbeddingModel) -> None:
        super().__init__()
        width = settings.encoder_width
        self.token = nn.Parameter(torch.randn(width) * INIT_STD)
        self.blocks = nn.ModuleList(Block(width, settings.heads) for _ in range(settings.encoder_layers))

    def forward(self, lines: Tensor, there: Tensor) -> Tensor:
        """lines [rows, length, width], there bool [rows, length] -> [rows, width]."""
        token = self.token.expand(len(lines), 1, -1)
        lines = torch.cat([token, lines], 1)
        there = torch.cat([there.new_ones(len(there), 1), there], 1)
        for block in self.blocks:
            lines = block(lines, there)
        return lines[:, 0]


class UserModel(nn.Module):
    """`sources`: their names, in order. `words`: size of the whole vocabulary; `spoken`: of what the LLM speaks."""

    def __init__(self, settings: EmbeddingModel, sources: Sequence[str], words: int, spoken: int) -> None:
        super().__init__()
        self.settings, self.sources, self.spoken = settings, tuple(sources), spoken
        self.llm = language(settings, spoken)
        inner, width, spread = settings.encoder_width, self.llm.width, self.llm.spread
        self.words = nn.Parameter(torch.randn(words, inner) * INIT_STD)
        self.encoders = nn.ModuleDict({name: Encoder(settings) for name in sources})
        self.adapters = nn.ModuleDict({name: _adapter(inner, width) for name in sources})
        self.missing = nn.Parameter(torch.randn(len(sources), width) * spread)
        self.source_delimiters = nn.Parameter(torch.randn(len(sources), 2, width) * spread)
        self.special_tokens = nn.Parameter(torch.randn(2, width) * spread)  # <USER>, <ANSWER>
        self.of_user, self.of_answer = nn.Linear(width, settings.dim), nn.Linear(width, settings.dim)
        self._learned = tuple(name for name, parameter in self.named_parameters() if parameter.requires_grad)

    def learned(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name, in a fixed order; the others are those of a local checkpoint."""
        parameters = dict(self.named_parameters())
        return {name: parameters[name] for name in self._learned}

    @property
    def prefix_tokens(self) -> int:
        return 3 * len(self.sources)

    def summary(self, source: str, words: Tensor, weight: Tensor, there: Tensor) -> Tensor:
        """words int64, weight [rows, lines, most], there bool [rows, lines] -> [rows, width], in the LLM's width."""
        rows, length, most = words.shape
        lines = nn.functional.embedding_bag(
            words.reshape(-1, most), self.words, mode="sum", per_sample_weights=weight.reshape(-1, most)
        ).view(rows, length, self.words.shape[1])
        adapted: Tensor = self.adapters[source](self.encoders[source](lines, there))
        return adapted

    def prefix(self, summaries: Tensor, present: Tensor) -> Tensor:
        """summaries [rows, sources, width], present bool [rows, sources] -> [rows, prefix tokens, width]."""
        inside = torch.where(present[..., None], summaries, self.missing)
        opened, closed = (self.source_delimiters[:, k].expand_as(inside) for k in (0, 1))
        return torch.stack([opened, inside, closed], 2).flatten(1, 2)

    def prefill(self, prefix: Tensor) -> Any:
        """The prefix's keys and values: computed once, for any number of instructions."""
        return self.llm.read(prefix)

    def embed_cached(self, cache: Any, instruction: Sequence[int]) -> Tensor:
        """Embeddings [rows, dim] of the users whose prefix is in the cache, which is only read."""
        return self.unit_user(self.llm.last(cache, self._question(instruction)))

    def embed_from_prefix(self, prefix: Tensor, instruction: Sequence[int]) -> Tensor:
        """As `ask`, from the prefix itself, which is read again."""
        question = self._question(instruction).expand(len(prefix), -1, -1)
        return self.unit_user(self.llm(torch.cat([prefix, question], 1))[:, -1])

    def read_examples(self, prefix: Tensor, place: Tensor, tokens: Tensor, user_at: Tensor) -> Tensor:
        """Hidden states [examples, length, width] for training; each user's prefix is read once for all its examples.

        place int64 [examples]: whose example, a row of `prefix`; tokens int64 [examples, length]: an instruction, a PAD
        at `user_at` [examples] where <USER> stands, an answer, PADs.
        """
        cache = self.prefill(prefix)
        cache.batch_select_indices(place)
        embedded = self.llm.embed(tokens)
        is_user = torch.arange(tokens.shape[1]) == user_at[:, None]
        embedded = torch.where(is_user[..., None], self.special_tokens[0], embedded)
        states: Tensor = self.llm(embedded, cache)
        return states

    def answers(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Unit vectors [rows, dim] of answers: int64 [rows, longest], PAD after `lengths` [rows] words."""
        embedded = self.llm.embed(nn.functional.pad(tokens, (0, 1), value=PAD))
        is_end = torch.arange(tokens.shape[1] + 1) == lengths[:, None]
        embedded = torch.where(is_end[..., None], self.special_tokens[1], embedded)
        at_end = self.llm(embedded)[torch.arange(len(tokens)), lengths]
        return nn.functional.normalize(self.of_answer(at_end), dim=-1)

    def unit_user(self, states: Tensor) -> Tensor:
        """[rows, width] at <USER> -> [rows, dim] of length 1."""
        return nn.functional.normalize(self.of_user(states), dim=-1)

    def _question(self, instruction: Sequence[int]) -> Tensor:
        words = self.llm.embed(torch.tensor([list(instruction)], dtype=torch.long))
        return torch.cat([words, self.special_tokens[0].expand(1, 1, -1)], 1)


def build(settings: EmbeddingModel, sources: Sequence[str], words: int, spoken: int, seed: int) -> UserModel:
    """A fresh model. Same arguments, same weights."""
    torch.manual_seed(derive_seed("user model", seed) % 2**63)
    return UserModel(settings, sources, words, spoken)


def restore(
    settings: EmbeddingModel, sources: Sequence[str], words: int, spoken: int, arrays: Mapping[str, Any]
) -> UserModel:
    """The model whose learned weights are `arrays`, ready to be asked. KeyError, RuntimeError: they are not."""
    model = UserModel(settings, sources, words, spoken)
    with torch.no_grad():
        for name, parameter in model.learned().items():
            parameter.copy_(torch.from_numpy(arrays[name]))
    return model.eval().requires_grad_(False)


def _adapter(inner: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(inner), nn.Linear(inner, width), nn.GELU(), nn.Linear(width, width))
