"""The language model: vectors in, states out. A small Llama made from scratch, or a local checkpoint with LoRA."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from rayrec.config.embeddings_section import EmbeddingModel
from rayrec.embeddings.view_vocabulary import PAD, Vocabulary
from rayrec.errors import ConfigError
from rayrec.storage import hf_checkpoint

MAX_TOKENS = 256  # tokens of an instruction and its answer together with the prefix
INIT_STD = 0.05  # standard deviation of fresh embeddings
_SOME = 1000  # words, to see how large vectors are
_WHERE = "embeddings.model.base"


class CausalLanguageModel(nn.Module):
    """A causal LM of the library `transformers`, perhaps inside LoRA."""

    def __init__(self, causal: Any) -> None:
        super().__init__()
        self.causal = causal
        some = self.embed(torch.arange(min(_SOME, self._plain.config.vocab_size))).detach()
        self.width, self.spread = some.shape[1], float(some.std())  # of the vectors that it reads

    @property
    def _plain(self) -> Any:
        return self.causal.get_base_model() if hasattr(self.causal, "get_base_model") else self.causal

    @property
    def decoder(self) -> Any:
        return self._plain.get_decoder()

    def embed(self, tokens: Tensor) -> Tensor:
        vectors: Tensor = self._plain.get_input_embeddings()(tokens)
        return vectors

    def forward(self, vectors: Tensor, cache: Any = None) -> Tensor:
        """Final hidden states of [rows, tokens, width], after what is in the cache; the cache grows by them."""
        read = self.decoder(inputs_embeds=vectors, past_key_values=cache, use_cache=cache is not None)
        states: Tensor = read.last_hidden_state
        return states

    def read(self, vectors: Tensor) -> Any:
        """Their keys and values."""
        return self.decoder(inputs_embeds=vectors, use_cache=True).past_key_values

    def last(self, cache: Any, question: Tensor) -> Tensor:
        """The final hidden state of a question's last token [rows, width] after each prefix in the cache.

        question: [1, tokens, width], the same for all. The cache is only read.
        """
        own = copy.copy(cache)  # layers add to themselves by binding new tensors
        own.layers = [copy.copy(layer) for layer in cache.layers]
        rows = len(cache.layers[0].keys)
        found: Tensor = self(question.expand(rows, -1, -1), own)[:, -1]
        return found

    def logits(self, states: Tensor) -> Tensor:
        """[rows, width] -> [rows, words that it knows]."""
        found: Tensor = self._plain.get_output_embeddings()(states)
        return found


class SmallLlama(CausalLanguageModel):
    """Made from scratch; `spoken`: ids that it reads and says."""

    def __init__(self, settings: EmbeddingModel, spoken: int) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        super().__init__(
            LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=spoken,
                    hidden_size=settings.width,
                    intermediate_size=settings.feedforward,
                    num_hidden_layers=settings.layers,
                    num_attention_heads=settings.heads,
                    num_key_value_heads=settings.heads,
                    max_position_embeddings=MAX_TOKENS,
                    initializer_range=INIT_STD,
                    tie_word_embeddings=True,
                    pad_token_id=PAD,
                    bos_token_id=None,
                    eos_token_id=None,
                    attn_implementation="sdpa",
                )
            )
        )

    def last(self, cache: Any, question: Tensor) -> Tensor:
        """The model's own layers, less what nobody needs: until the first attention a question is the same for all
        users, hidden [1, tokens, width], and after the last layer's keys and values only its end is looked at.
        """
        hidden, tokens, llama = question, question.shape[1], self.decoder
        before = cache.layers[0].keys.shape[2]
        turn = llama.rotary_emb(hidden, torch.arange(before, before + tokens)[None])
        causal = torch.ones(tokens, before + tokens, dtype=torch.bool).tril(before)
        for layer, past in zip(llama.layers, cache.layers, strict=True):
            shape = (len(past.keys), -1, -1, -1)
            normed, attention = layer.input_layernorm(hidden), layer.self_attn
            key = _rotated(_by_head(attention.k_proj(normed), attention.head_dim), turn)
            value = _by_head(attention.v_proj(normed), attention.head_dim)
            if layer is llama.layers[-1]:
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
        found: Tensor = llama.norm(hidden)[:, -1]
        return found


def language(settings: EmbeddingModel, spoken: int) -> CausalLanguageModel:
    """Raises ConfigError for a base that cannot be loaded."""
    if settings.base == "scratch":
        return SmallLlama(settings, spoken)
    found = CausalLanguageModel(
        hf_checkpoint.load_causal_lm_with_lora(settings.base, settings.lora_rank, _WHERE, dtype=torch.float32)
    )
    room = found.decoder.config.max_position_embeddings
    if room < MAX_TOKENS:
        raise ConfigError(
            f"instructions and answers of up to {MAX_TOKENS} tokens do not fit the base model's {room}",
            where=f"{_WHERE}: {settings.base}",
        )
    return found


def base_digest(settings: EmbeddingModel) -> str:
    """What the base is, for fingerprints: `scratch`, or the folder's name and a digest of its files' content."""
    return settings.base if settings.base == "scratch" else hf_checkpoint.base_model_id(settings.base, _WHERE)


def text_tokenizer(settings: EmbeddingModel, vocabulary: Vocabulary) -> Callable[[str], list[int]]:
    """How texts read to the language model, as token ids; no text reads as a special token.

    Raises ConfigError for a base without a tokenizer.
    """
    if settings.base == "scratch":
        return vocabulary.ids
    content = json.loads(hf_checkpoint.load_tokenizer(settings.base, _WHERE).backend_tokenizer.to_str())
    content["added_tokens"], content["post_processor"] = [], None
    tokenizer = Tokenizer.from_str(json.dumps(content))

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return found

    return ids


def _by_head(states: Tensor, size: int) -> Tensor:
    """[rows, tokens, width] -> [rows, heads, tokens, size]."""
    return states.view(*states.shape[:2], -1, size).transpose(1, 2)


def _rotated(states: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions, cosines and sines [1, tokens, size], into states [rows, heads, tokens, size]."""
    first, second = states.chunk(2, -1)
    cosine, sine = (part[:, None] for part in turn)
    return states * cosine + torch.cat([-second, first], -1) * sine
