"""The item-token language model during tuning: a causal decoder with one matrix of item vectors, for input and output.

An item's vector is its own part plus, with `item_init` text or hybrid, the sum of the embeddings of its words, so that
"drama" in a request and in a thousand film names is learned once. Items with too few events share one own part and
differ by their words. `export` adds the parts: engines see one plain matrix.

As inputs, new vectors have the spread of the base's embeddings. As outputs, that spread times the norm of a pretrained
model's hidden states (49 for SmolLM2-135M) would give logits with a spread of several nats before anything is learned.
`logit_scale` divides it away, so that the first predictions are near uniform.

    scratch   a small Llama, fully trained
    a base    a local Hugging Face checkpoint plus vectors for the added tokens: with LoRA on its linear layers, which
              `export` merges, or fully tuned in float32; the result is a plain checkpoint

Training checkpoints hold only the `trainable_parameters`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rayrec.config import Tuning
from rayrec.errors import ConfigError
from rayrec.numerics.hashing import derive_seed
from rayrec.numerics.ragged import Ragged
from rayrec.reranking.item_token.item_vocabulary import Vocabulary
from rayrec.storage import hf_checkpoint

_SPREAD = 0.05  # standard deviation of new embeddings
_LOGIT_SPREAD = 0.5  # standard deviation of the first logits over the items, nats: costs 1/8 nat above log(items)


@dataclass(frozen=True)
class _Bags:
    """The words of all items with their weights, as `embedding_bag` takes them."""

    word: Tensor  # int64 [words]
    start: Tensor  # int64 [items]
    weight: Tensor  # float32 [words]


class ItemLM(nn.Module):
    """tokens int64 [rows, length] -> scaled hidden states [rows, length, width]; times `vectors()`: logits.

    `tuned`: the first so many items have an own part; default: all.
    """

    new: nn.Parameter | None  # [width], shared by items without an own part

    def __init__(self, causal: Any, vocabulary: Vocabulary, tuned: int | None = None) -> None:
        super().__init__()
        self.causal = causal
        self.vocabulary = vocabulary
        self.logit_scale = 1.0
        table: Tensor = causal.get_input_embeddings().weight
        width = table.shape[1]
        spread = float(table.detach().float().std())
        self.marks = nn.Parameter(torch.randn(vocabulary.first_item - vocabulary.user, width) * spread)
        tuned = vocabulary.items if tuned is None else tuned
        self.items = nn.Parameter(torch.randn(tuned, width) * spread)
        self.register_parameter("new", nn.Parameter(torch.zeros(width)) if tuned < vocabulary.items else None)
        self._named: _Bags | None = None

    @property
    def width(self) -> int:
        return int(self.items.shape[1])

    def project_factors(self, factors: npt.NDArray[np.float32]) -> Tensor:
        """Item factors float32 [items, k] projected to the model's width, [items, width].

        SVD, then truncated or zero-padded, which preserves inner products as well as the width allows.
        """
        u, s, _ = torch.linalg.svd(torch.from_numpy(np.ascontiguousarray(factors, np.float32)), full_matrices=False)
        rotated = (u * s)[:, : self.width]
        return nn.functional.pad(rotated, (0, self.width - rotated.shape[1]))

    def set_item_words(self, facets: Ragged, titles: Ragged) -> None:
        """Add a word part to the item vectors (token ids int64, one row an item).

        Facet words weigh 1 each, so that facets add up alike in all items. Title words weigh log(items / items with the
        word), normalised to length 1 per title.
        """
        titles = _distinct(titles)
        rarity = np.log((len(titles) + 1) / np.maximum(np.bincount(titles.values), 1))[titles.values]
        length = np.sqrt(np.bincount(titles.rows, rarity**2, minlength=len(titles)))[titles.rows]
        words = facets.joined(titles)
        weight = facets.like(np.ones(len(facets.values))).joined(titles.like(rarity / length)).values
        parts = words.values, words.offsets[:-1], weight.astype(np.float32)
        self._named = _Bags(*(torch.from_numpy(part) for part in parts))

    def init_item_vectors(self, vectors: Tensor) -> None:
        """Initialise the own parts with these [tuned, width], scaled to the spread of the model's embeddings."""
        with torch.no_grad():
            self.items.copy_(vectors / vectors.std().clamp_min(1e-9) * self.items.std())

    def scale_logits(self, tokens: Tensor) -> None:
        """Set `logit_scale` so that logits after these prompts (int64 [rows, length]) spread by at most
        `_LOGIT_SPREAD` nats over the items. A power of 2, which rounding on another machine does not change."""
        self.eval()
        with torch.no_grad():
            vectors = self.vectors()
            spread = float((self(tokens, vectors).flatten(0, 1).float() @ vectors.float().T).std(1).mean())
        self.logit_scale *= 2.0 ** min(0, round(math.log2(_LOGIT_SPREAD / max(spread, 1e-9))))

    def vectors(self) -> Tensor:
        """The item vectors, [items, width]: own or shared part, plus the word part."""
        own: Tensor = self.items
        if self.new is not None:
            own = torch.cat([own, self.new.expand(self.vocabulary.items - len(own), -1)])
        return own if self._named is None else own + self.word_vectors()

    def word_vectors(self) -> Tensor:
        """The word part of the item vectors, [items, width]; zeros without `set_item_words`."""
        table = self.causal.get_input_embeddings().weight
        if self._named is None:
            return torch.zeros(self.vocabulary.items, self.width, device=self.items.device)
        word, start, weight = (p.to(table.device) for p in (self._named.word, self._named.start, self._named.weight))
        named: Tensor = nn.functional.embedding_bag(
            word, table, start, mode="sum", per_sample_weights=weight.to(table.dtype)
        )
        return named

    def forward(self, tokens: Tensor, vectors: Tensor | None = None) -> Tensor:
        """`vectors`: the result of `self.vectors()` if it is already computed."""
        vocabulary = self.vocabulary
        added = torch.cat([self.marks, self.vectors() if vectors is None else vectors])
        embeddings = self.causal.get_input_embeddings()(tokens.clamp_max(vocabulary.user - 1))
        of_added = nn.functional.embedding((tokens - vocabulary.user).clamp_min(0), added).to(embeddings.dtype)
        mixed = torch.where((tokens >= vocabulary.user).unsqueeze(-1), of_added, embeddings)
        # Padding is on the right, where a causal model does not see it: no mask.
        states: Tensor = _decoder(self.causal)(inputs_embeds=mixed, use_cache=False).last_hidden_state
        return states if self.logit_scale == 1 else states * self.logit_scale

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name, in a fixed order."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def export(self, folder: Path) -> None:
        """Write a plain Hugging Face checkpoint (safetensors). The model cannot be tuned further afterwards."""
        vectors = self.vectors().detach()
        causal = self.causal.merge_and_unload() if hasattr(self.causal, "merge_and_unload") else self.causal
        vocabulary = self.vocabulary
        size = max(vocabulary.size, causal.get_input_embeddings().weight.shape[0])
        causal.resize_token_embeddings(size, mean_resizing=False)
        with torch.no_grad():
            for layer in (causal.get_input_embeddings(), causal.get_output_embeddings()):
                table = layer.weight
                table[vocabulary.user : vocabulary.first_item] = self.marks.to(table.dtype)
                table[vocabulary.first_item : vocabulary.size] = vectors.to(table.dtype)
        causal.save_pretrained(str(folder), safe_serialization=True)


def build(
    settings: Tuning, vocabulary: Vocabulary, longest: int, tuned: int | None = None, base: str | None = None
) -> ItemLM:
    """A new model, the same for the same settings. `longest`: tokens of the longest prompt; `tuned`: see ItemLM;
    `base`: a folder to load instead of `settings.base`."""
    torch.manual_seed(derive_seed("model", settings.seed) % 2**63)
    if settings.base == "scratch":
        return ItemLM(_small_llama(settings, vocabulary, longest), vocabulary, tuned)
    return ItemLM(_of_base(settings, base or settings.base, longest), vocabulary, tuned)


def base_digest(base: str) -> str:
    """The base for fingerprints: `scratch`, or the folder's name and a digest of its files."""
    return base if base == "scratch" else hf_checkpoint.base_model_id(base, "tuning.base")


def _distinct(words: Ragged) -> Ragged:
    """The distinct words of each row, ascending."""
    span = int(words.values.max(initial=0)) + 1
    row, word = np.divmod(np.unique(words.rows * span + words.values), span)
    return Ragged.from_lengths(word, np.bincount(row, minlength=len(words)))


def _small_llama(settings: Tuning, vocabulary: Vocabulary, longest: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    if settings.width % settings.heads or (settings.width // settings.heads) % 32:
        raise ConfigError(
            f"width {settings.width} over {settings.heads} heads gives heads that vLLM cannot run",
            where="tuning",
            hint="choose width = heads x a multiple of 32",
        )
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary.user,  # `export` adds the rows of marks and items
            hidden_size=settings.width,
            intermediate_size=settings.feedforward,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.heads,
            max_position_embeddings=longest,
            initializer_range=_SPREAD,
            tie_word_embeddings=True,
            pad_token_id=vocabulary.pad,
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation="sdpa",
        )
    )


def _of_base(settings: Tuning, base: str, longest: int) -> Any:
    if settings.lora_rank:
        model = hf_checkpoint.load_causal_lm_with_lora(base, settings.lora_rank, "tuning.base")
        model.enable_input_require_grads()
    else:
        # Half precision would round small tuning steps away.
        model = hf_checkpoint.load_causal_lm(base, "tuning.base", dtype=torch.float32)
        if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
            model.get_output_embeddings().requires_grad_(False)  # it predicts only items
    most = model.config.get_text_config().max_position_embeddings
    if most < longest:
        raise ConfigError(
            f"prompts of up to {longest} tokens do not fit the base model's {most}",
            where="tuning.events",
            hint="lower tuning.events",
        )
    return model


def _decoder(causal: Any) -> Any:
    plain = causal.get_base_model() if hasattr(causal, "get_base_model") else causal
    return plain.get_decoder()
