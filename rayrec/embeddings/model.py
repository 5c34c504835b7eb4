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

from rayrec.config.embeddings import EmbeddingModel
from rayrec.embeddings.vocabulary import PAD
from rayrec.hashing import seed_of

LONGEST = 256  # tokens of an instruction and its answer together with the prefix
SPREAD = 0.05  # standard deviation of fresh embeddings


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
        self.token = nn.Parameter(torch.randn(width) * SPREAD)
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
        inner, width = settings.encoder_width, settings.width
        self.words = nn.Parameter(torch.randn(words, inner) * SPREAD)
        self.encoders = nn.ModuleDict({name: Encoder(settings) for name in sources})
        self.adapters = nn.ModuleDict({name: _adapter(inner, width) for name in sources})
        self.missing = nn.Parameter(torch.randn(len(sources), width) * SPREAD)
        self.fences = nn.Parameter(torch.randn(len(sources), 2, width) * SPREAD)
        self.marks = nn.Parameter(torch.randn(2, width) * SPREAD)  # <USER>, <ANSWER>
        self.llm = _small_llama(settings, spoken)
        self.of_user, self.of_answer = nn.Linear(width, settings.dim), nn.Linear(width, settings.dim)

    @property
    def prefix_tokens(self) -> int:
        return 3 * len(self.sources)

    def summary(self, source: str, words: Tensor, weight: Tensor, there: Tensor) -> Tensor:
        """words int64, weight [rows, lines, most], there bool [rows, lines] -> [rows, width], in the LLM's width."""
        rows, length, most = words.shape
        lines = nn.functional.embedding_bag(
            words.reshape(-1, most), self.words, mode="sum", per_sample_weights=weight.reshape(-1, most)
        ).view(rows, length, -1)
        adapted: Tensor = self.adapters[source](self.encoders[source](lines, there))
        return adapted

    def prefix(self, summaries: Tensor, present: Tensor) -> Tensor:
        """summaries [rows, sources, width], present bool [rows, sources] -> [rows, prefix tokens, width]."""
        inside = torch.where(present[..., None], summaries, self.missing)
        opened, closed = (self.fences[:, k].expand_as(inside) for k in (0, 1))
        return torch.stack([opened, inside, closed], 2).flatten(1, 2)

    def read_prefix(self, prefix: Tensor) -> Any:
        """The prefix's keys and values: computed once, for any number of instructions."""
        return self.llm(inputs_embeds=prefix, use_cache=True).past_key_values

    def ask(self, cache: Any, instruction: Sequence[int]) -> Tensor:
        """Embeddings [rows, dim] of the users whose prefix is in the cache, which is only read.

        The language model's own layers, less what nobody needs: until the first attention a question is the same for
        all users, hidden [1, tokens, width], and after the last layer's keys and values only <USER> is looked at.
        """
        hidden = self._question(instruction)
        tokens = hidden.shape[1]
        turn = self.llm.rotary_emb(hidden, torch.arange(self.prefix_tokens, self.prefix_tokens + tokens)[None])
        causal = torch.ones(tokens, self.prefix_tokens + tokens, dtype=torch.bool).tril(self.prefix_tokens)
        for layer, past in zip(self.llm.layers, cache.layers, strict=True):
            shape = (len(past.keys), -1, -1, -1)
            normed, attention = layer.input_layernorm(hidden), layer.self_attn
            key = _rotated(_by_head(attention.k_proj(normed), attention.head_dim), turn)
            value = _by_head(attention.v_proj(normed), attention.head_dim)
            if layer is self.llm.layers[-1]:
                hidden, normed, causal = hidden[:, -1:], normed[:, -1:], causal[-1:]
                turn = turn[0][:, -1:], turn[1][:, -1:]
            query = _rotated(_by_head(attention.q_proj(normed), attention.head_dim), turn)
            seen = nn.functional.scaled_dot_product_attention(
                query.expand(shape),
                torch.cat([past.keys, key.expand(shape)], 2),
                torch.cat([past.values, value.expand(shape)], 2),
                attn_mask=causal,
            )
            hidden = hidden + attention.o_proj(seen.transpose(1, 2).flatten(2))
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        return self.unit_user(self.llm.norm(hidden)[:, -1])

    def ask_whole(self, prefix: Tensor, instruction: Sequence[int]) -> Tensor:
        """As `ask`, from the prefix itself, which is read again."""
        question = self._question(instruction).expand(len(prefix), -1, -1)
        states = self.llm(inputs_embeds=torch.cat([prefix, question], 1), use_cache=False).last_hidden_state
        return self.unit_user(states[:, -1])

    def read_examples(self, prefix: Tensor, place: Tensor, tokens: Tensor, user_at: Tensor) -> Tensor:
        """Hidden states [examples, length, width] for training; each user's prefix is read once for all its examples.

        place int64 [examples]: whose example, a row of `prefix`; tokens int64 [examples, length]: an instruction, a PAD
        at `user_at` [examples] where <USER> stands, an answer, PADs.
        """
        cache = self.read_prefix(prefix)
        cache.batch_select_indices(place)
        embedded = self.llm.embed_tokens(tokens)
        is_user = torch.arange(tokens.shape[1]) == user_at[:, None]
        embedded = torch.where(is_user[..., None], self.marks[0], embedded)
        states: Tensor = self.llm(inputs_embeds=embedded, past_key_values=cache, use_cache=True).last_hidden_state
        return states

    def answers(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Unit vectors [rows, dim] of answers: int64 [rows, longest], PAD after `lengths` [rows] words."""
        embedded = self.llm.embed_tokens(nn.functional.pad(tokens, (0, 1), value=PAD))
        is_end = torch.arange(tokens.shape[1] + 1) == lengths[:, None]
        embedded = torch.where(is_end[..., None], self.marks[1], embedded)
        states = self.llm(inputs_embeds=embedded, use_cache=False).last_hidden_state
        at_end = states[torch.arange(len(tokens)), lengths]
        return nn.functional.normalize(self.of_answer(at_end), dim=-1)

    def unit_user(self, states: Tensor) -> Tensor:
        """[rows, width] at <USER> -> [rows, dim] of length 1."""
        return nn.functional.normalize(self.of_user(states), dim=-1)

    def spoken_logits(self, states: Tensor) -> Tensor:
        """[rows, width] -> [rows, spoken], by the very vectors that are read."""
        logits: Tensor = states @ self.llm.embed_tokens.weight.T
        return logits

    def _question(self, instruction: Sequence[int]) -> Tensor:
        words = self.llm.embed_tokens(torch.tensor([list(instruction)], dtype=torch.long))
        return torch.cat([words, self.marks[0].expand(1, 1, -1)], 1)


def build(settings: EmbeddingModel, sources: Sequence[str], words: int, spoken: int, seed: int) -> UserModel:
    """A fresh model. Same arguments, same weights."""
    torch.manual_seed(seed_of("user model", seed) % 2**63)
    return UserModel(settings, sources, words, spoken)


def restore(
    settings: EmbeddingModel, sources: Sequence[str], words: int, spoken: int, arrays: Mapping[str, Any]
) -> UserModel:
    """The model whose weights are `arrays`, ready to be asked."""
    model = UserModel(settings, sources, words, spoken)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    return model.eval().requires_grad_(False)


def _by_head(states: Tensor, size: int) -> Tensor:
    """[rows, tokens, width] -> [rows, heads, tokens, size]."""
    return states.view(*states.shape[:2], -1, size).transpose(1, 2)


def _rotated(states: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions, cosines and sines [1, tokens, size], into states [rows, heads, tokens, size]."""
    first, second = states.chunk(2, -1)
    cosine, sine = (part[:, None] for part in turn)
    return states * cosine + torch.cat([-second, first], -1) * sine


def _adapter(inner: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(inner), nn.Linear(inner, width), nn.GELU(), nn.Linear(width, width))


def _small_llama(settings: EmbeddingModel, spoken: int) -> Any:
    from transformers import LlamaConfig, LlamaModel

    return LlamaModel(
        LlamaConfig(
            vocab_size=spoken,
            hidden_size=settings.width,
            intermediate_size=settings.feedforward,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.heads,
            max_position_embeddings=LONGEST,
            initializer_range=SPREAD,
            pad_token_id=PAD,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation="sdpa",
        )
    )
