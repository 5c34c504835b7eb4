"""The language model of the user model: a small Llama trained from scratch, or a local checkpoint with LoRA."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from rayrec.config.embeddings_section import EmbeddingModel
from rayrec.embeddings.word_vocabulary import PAD, Vocabulary
from rayrec.errors import ConfigError
from rayrec.storage import hf_checkpoint

MAX_TOKENS = 256  # prefix, instruction and answer together
INIT_STD = 0.05  # standard deviation of new embeddings
_SAMPLE = 1000  # words whose embeddings are measured
_WHERE = "embeddings.model.base"


class CausalLanguageModel(nn.Module):
    """A causal LM of the library `transformers`, possibly wrapped by LoRA. Inputs are vectors."""

    def __init__(self, causal: Any) -> None:
        super().__init__()
        self.causal = causal
        sample = self.embed(torch.arange(min(_SAMPLE, self._base.config.vocab_size))).detach()
        self.width, self.spread = sample.shape[1], float(sample.std())  # size and scale of its input vectors

    @property
    def _base(self) -> Any:
        return self.causal.get_base_model() if hasattr(self.causal, "get_base_model") else self.causal

    @property
    def decoder(self) -> Any:
        return self._base.get_decoder()

    def embed(self, tokens: Tensor) -> Tensor:
        vectors: Tensor = self._base.get_input_embeddings()(tokens)
        return vectors

    def forward(self, vectors: Tensor, cache: Any = None) -> Tensor:
        """Final hidden states of vectors [rows, tokens, width] that follow the cache. The cache is extended by them."""
        output = self.decoder(inputs_embeds=vectors, past_key_values=cache, use_cache=cache is not None)
        states: Tensor = output.last_hidden_state
        return states

    def prefill(self, vectors: Tensor) -> Any:
        """A cache with the keys and values of the vectors."""
        return self.decoder(inputs_embeds=vectors, use_cache=True).past_key_values

    def last(self, cache: Any, question: Tensor) -> Tensor:
        """Final hidden states of the question's last token after each cached prefix, [rows, width].

        question: [1, tokens, width], the same for all rows. The cache is not changed.
        """
        extended = copy.copy(cache)  # a shallow copy is enough: layers extend themselves by binding new tensors
        extended.layers = [copy.copy(layer) for layer in cache.layers]
        rows = len(cache.layers[0].keys)
        found: Tensor = self(question.expand(rows, -1, -1), extended)[:, -1]
        return found

    def logits(self, states: Tensor) -> Tensor:
        """[rows, width] -> [rows, vocabulary]."""
        found: Tensor = self._base.get_output_embeddings()(states)
        return found


class SmallLlama(CausalLanguageModel):
    """A Llama trained from scratch with a vocabulary of `vocabulary_size` ids."""

    def __init__(self, settings: EmbeddingModel, vocabulary_size: int) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        super().__init__(
            LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=vocabulary_size,
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
        """As the base class, without redundant work: up to the first attention the question's states are the same for
        all rows, hidden [1, tokens, width], and after the last layer's keys and values only the last token is computed.
        """
        hidden, tokens, llama = question, question.shape[1], self.decoder
        prefix = cache.layers[0].keys.shape[2]
        rotation = llama.rotary_emb(hidden, torch.arange(prefix, prefix + tokens)[None])
        causal = torch.ones(tokens, prefix + tokens, dtype=torch.bool).tril(prefix)
        for layer, past in zip(llama.layers, cache.layers, strict=True):
            shape = (len(past.keys), -1, -1, -1)
            normed, attention = layer.input_layernorm(hidden), layer.self_attn
            key = _rotate(_by_head(attention.k_proj(normed), attention.head_dim), rotation)
            value = _by_head(attention.v_proj(normed), attention.head_dim)
            if layer is llama.layers[-1]:
                hidden, normed, causal = hidden[:, -1:], normed[:, -1:], causal[-1:]
                rotation = rotation[0][:, -1:], rotation[1][:, -1:]
            query = _rotate(_by_head(attention.q_proj(normed), attention.head_dim), rotation)
            attended = nn.functional.scaled_dot_product_attention(
                query.expand(shape),
                torch.cat([past.keys, key.expand(shape)], 2),
                torch.cat([past.values, value.expand(shape)], 2),
                attn_mask=causal,
            )
            hidden = hidden + attention.o_proj(attended.transpose(1, 2).flatten(2))
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        found: Tensor = llama.norm(hidden)[:, -1]
        return found


def build_language_model(settings: EmbeddingModel, vocabulary_size: int) -> CausalLanguageModel:
    """The language model of the settings. Raises ConfigError if the base model cannot be loaded or is too short."""
    if settings.base == "scratch":
        return SmallLlama(settings, vocabulary_size)
    found = CausalLanguageModel(
        hf_checkpoint.load_causal_lm_with_lora(settings.base, settings.lora_rank, _WHERE, dtype=torch.float32)
    )
    positions = found.decoder.config.max_position_embeddings
    if positions < MAX_TOKENS:
        raise ConfigError(
            f"the base model has {positions} positions; instructions and answers need {MAX_TOKENS}",
            where=f"{_WHERE}: {settings.base}",
            hint="give embeddings.model.base another checkpoint",
        )
    return found


def base_digest(settings: EmbeddingModel) -> str:
    """Identity of the base model for fingerprints: `scratch`, or folder name and digest of the files' content."""
    return settings.base if settings.base == "scratch" else hf_checkpoint.base_model_id(settings.base, _WHERE)


def text_tokenizer(settings: EmbeddingModel, vocabulary: Vocabulary) -> Callable[[str], list[int]]:
    """A function from text to token ids of the language model; no text is read as a special token.

    Raises ConfigError if the base has no tokenizer.
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


def _rotate(states: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding: cosines and sines [1, tokens, size] on states [rows, heads, tokens, size]."""
    first, second = states.chunk(2, -1)
    cosine, sine = (part[:, None] for part in rotation)
    return states * cosine + torch.cat([-second, first], -1) * sine
