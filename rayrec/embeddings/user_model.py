"""The user model (after InstructUE, arXiv 2510.11016): one vector per user and instruction.

view -> encoder -> one summary ─ adapter ─┐
view -> encoder -> one summary ─ adapter ─┤  <events> s </events> <profile> s </profile> . instruction <USER> answer
view is missing -> a learned vector ──────┘  the user's prefix, the same for all instructions

The last hidden state at <USER>, projected and normalised, is the embedding. The instruction comes last, so the keys and
values of the prefix are computed once for all instructions. The same language model embeds an answer, from its words
followed by <ANSWER>.

All sequences of an instruction have the same number of tokens, and padding is on the right or masked, so users do not
affect each other. In batches of one fixed shape, a user's vector is bit-identical in any batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rayrec.config.embeddings_section import EmbeddingModel
from rayrec.embeddings.language_model import INIT_STD, build_language_model
from rayrec.embeddings.word_vocabulary import PAD
from rayrec.numerics.hashing import derive_seed


class Block(nn.Module):
    """A pre-norm transformer layer with full attention between the lines of a mask; dense shapes."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, lines: Tensor, mask: Tensor) -> Tensor:
        rows, length, width = lines.shape
        parts = self.qkv(self.attention_norm(lines)).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        pairs = mask[:, None, None, :].expand(rows, 1, length, length)
        attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=pairs)
        lines = lines + self.out(attended.transpose(1, 2).reshape(rows, length, width))
        added: Tensor = self.down(nn.functional.gelu(self.up(self.mlp_norm(lines))))
        return lines + added


class Encoder(nn.Module):
    """Summary of one source: the output at a learned token that attends to all lines."""

    def __init__(self, settings: EmbeddingModel) -> None:
        super().__init__()
        width = settings.encoder_width
        self.token = nn.Parameter(torch.randn(width) * INIT_STD)
        self.blocks = nn.ModuleList(Block(width, settings.heads) for _ in range(settings.encoder_layers))

    def forward(self, lines: Tensor, mask: Tensor) -> Tensor:
        """lines [rows, length, width], mask bool [rows, length] -> [rows, width]."""
        token = self.token.expand(len(lines), 1, -1)
        lines = torch.cat([token, lines], 1)
        mask = torch.cat([mask.new_ones(len(mask), 1), mask], 1)
        for block in self.blocks:
            lines = block(lines, mask)
        return lines[:, 0]


class UserModel(nn.Module):
    """`sources`: names in order; `words`: size of the vocabulary; `lm_words`: its part that the language model uses."""

    def __init__(self, settings: EmbeddingModel, sources: Sequence[str], words: int, lm_words: int) -> None:
        super().__init__()
        self.sources = tuple(sources)
        self.llm = build_language_model(settings, lm_words)
        inner, width, spread = settings.encoder_width, self.llm.width, self.llm.spread
        self.words = nn.Parameter(torch.randn(words, inner) * INIT_STD)
        self.encoders = nn.ModuleDict({name: Encoder(settings) for name in sources})
        self.adapters = nn.ModuleDict({name: _adapter(inner, width) for name in sources})
        self.missing = nn.Parameter(torch.randn(len(sources), width) * spread)
        self.source_delimiters = nn.Parameter(torch.randn(len(sources), 2, width) * spread)
        self.special_tokens = nn.Parameter(torch.randn(2, width) * spread)  # <USER>, <ANSWER>
        self.user_projection, self.answer_projection = nn.Linear(width, settings.dim), nn.Linear(width, settings.dim)
        self._learned = tuple(name for name, parameter in self.named_parameters() if parameter.requires_grad)

    def learned(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name, in a fixed order; all others belong to the base checkpoint."""
        parameters = dict(self.named_parameters())
        return {name: parameters[name] for name in self._learned}

    @property
    def prefix_tokens(self) -> int:
        return 3 * len(self.sources)

    def summary(self, source: str, words: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
        """words int64, weight [rows, lines, n], mask bool [rows, lines] -> [rows, width of the language model]."""
        rows, length, n = words.shape
        lines = nn.functional.embedding_bag(
            words.reshape(-1, n), self.words, mode="sum", per_sample_weights=weight.reshape(-1, n)
        ).view(rows, length, self.words.shape[1])
        adapted: Tensor = self.adapters[source](self.encoders[source](lines, mask))
        return adapted

    def prefix(self, summaries: Tensor, present: Tensor) -> Tensor:
        """summaries [rows, sources, width], present bool [rows, sources] -> [rows, prefix tokens, width]."""
        inside = torch.where(present[..., None], summaries, self.missing)
        opening, closing = (self.source_delimiters[:, k].expand_as(inside) for k in (0, 1))
        return torch.stack([opening, inside, closing], 2).flatten(1, 2)

    def prefill(self, prefix: Tensor) -> Any:
        """The prefix's keys and values: computed once, for any number of instructions."""
        return self.llm.prefill(prefix)

    def embed_cached(self, cache: Any, instruction: Sequence[int]) -> Tensor:
        """Embeddings [rows, dim] of the users whose prefix is in the cache. The cache is not changed."""
        return self.unit_user(self.llm.last(cache, self.question(instruction)))

    def example_states(self, prefix: Tensor, place: Tensor, tokens: Tensor, user_at: Tensor) -> Tensor:
        """Hidden states [examples, length, width] for training; each user's prefix is computed once for all examples.

        place int64 [examples]: the example's user, a row of `prefix`; tokens int64 [examples, length]: instruction, a
        PAD at `user_at` [examples] in place of <USER>, answer, PADs.
        """
        cache = self.prefill(prefix)
        cache.batch_select_indices(place)
        embedded = self.llm.embed(tokens)
        is_user = torch.arange(tokens.shape[1]) == user_at[:, None]
        embedded = torch.where(is_user[..., None], self.special_tokens[0], embedded)
        states: Tensor = self.llm(embedded, cache)
        return states

    def answers(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Unit vectors [rows, dim] of answers: tokens int64 [rows, longest], PAD after `lengths` [rows] tokens."""
        embedded = self.llm.embed(nn.functional.pad(tokens, (0, 1), value=PAD))
        is_end = torch.arange(tokens.shape[1] + 1) == lengths[:, None]
        embedded = torch.where(is_end[..., None], self.special_tokens[1], embedded)
        at_end = self.llm(embedded)[torch.arange(len(tokens)), lengths]
        return nn.functional.normalize(self.answer_projection(at_end), dim=-1)

    def unit_user(self, states: Tensor) -> Tensor:
        """[rows, width] at <USER> -> [rows, dim] of length 1."""
        return nn.functional.normalize(self.user_projection(states), dim=-1)

    def question(self, instruction: Sequence[int]) -> Tensor:
        """Input vectors of an instruction and <USER>, [1, tokens, width]."""
        words = self.llm.embed(torch.tensor([list(instruction)], dtype=torch.long))
        return torch.cat([words, self.special_tokens[0].expand(1, 1, -1)], 1)


def build(settings: EmbeddingModel, sources: Sequence[str], words: int, lm_words: int, seed: int) -> UserModel:
    """Create a model. The same arguments give the same weights."""
    torch.manual_seed(derive_seed("user model", seed) % 2**63)
    return UserModel(settings, sources, words, lm_words)


def restore(
    settings: EmbeddingModel, sources: Sequence[str], words: int, lm_words: int, arrays: Mapping[str, Any]
) -> UserModel:
    """Restore a model with the learned weights `arrays`, for inference. KeyError or RuntimeError if they do not fit."""
    model = UserModel(settings, sources, words, lm_words)
    with torch.no_grad():
        for name, parameter in model.learned().items():
            parameter.copy_(torch.from_numpy(arrays[name]))
    return model.eval().requires_grad_(False)


def _adapter(inner: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(inner), nn.Linear(inner, width), nn.GELU(), nn.Linear(width, width))
