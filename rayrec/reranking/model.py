"""The model while it is tuned: a causal decoder whose items are one matrix, read and predicted with the same vectors.

An item's vector is its own plus, where the settings say so, the weighed sum of the embeddings of the words it is called
by: "drama" in a request and in the names of a thousand films is then one thing to learn, and an item that nobody has
taken yet is still somewhere. `export` adds the two up: engines see one plain matrix.

    scratch   a small Llama, all of it trained
    a base    a local Hugging Face checkpoint with LoRA on its linear layers, plus vectors for the added tokens;
              `export` merges the LoRA and writes a plain checkpoint

Only what is trained is kept in checkpoints: `trained` names it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rayrec.config import Tuning
from rayrec.contracts.ragged import Ragged
from rayrec.errors import ConfigError
from rayrec.hashing import seed_of
from rayrec.reranking.vocabulary import Vocabulary

_SPREAD = 0.05  # standard deviation of fresh embeddings


class ItemLM(nn.Module):
    """tokens int64 [rows, length] -> final hidden states [rows, length, width]; times `items`: logits."""

    def __init__(self, causal: Any, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.causal = causal
        self.vocabulary = vocabulary
        table: Tensor = causal.get_input_embeddings().weight
        width = table.shape[1]
        spread = float(table.detach().float().std())
        self.marks = nn.Parameter(torch.randn(vocabulary.first_item - vocabulary.user, width) * spread)
        self.items = nn.Parameter(torch.randn(vocabulary.items, width) * spread)
        self._words: Tensor | None = None
        self._offsets = self._rarity = torch.empty(0)

    @property
    def width(self) -> int:
        return int(self.items.shape[1])

    def vectors_of_factors(self, factors: npt.NDArray[np.float32]) -> Tensor:
        """Item factors float32 [items, k], rotated onto the model's width: [items, width]."""
        return _fit_width(torch.from_numpy(np.ascontiguousarray(factors, np.float32)), self.width)

    def name_items(self, words: Ragged) -> None:
        """From now on an item's vector has a part made of its words (token ids int64, one row an item).

        A word weighs log(items / items with it); the weights of an item have length 1.
        """
        size = self.causal.get_input_embeddings().weight.shape[0]
        item, word = np.divmod(np.unique(words.rows * size + words.values), size)
        rarity = np.log((len(words) + 1) / np.maximum(np.bincount(word, minlength=size), 1))[word]
        length = np.sqrt(np.bincount(item, rarity**2, minlength=len(words)))[item]
        self._words = torch.from_numpy(word)
        self._offsets = torch.from_numpy(np.searchsorted(item, np.arange(len(words))))
        self._rarity = torch.from_numpy((rarity / np.maximum(length, 1e-9)).astype(np.float32))

    def start_items(self, vectors: Tensor) -> None:
        """Begin the items' own part with these [items, width], at the spread of the model's embeddings."""
        with torch.no_grad():
            self.items.copy_(vectors / vectors.std().clamp_min(1e-9) * self.items.std())

    def vectors(self) -> Tensor:
        """Every item's vector, [items, width]: its own part and that of its words."""
        if self._words is None:
            return self.items
        table = self.causal.get_input_embeddings().weight
        words, offsets, rarity = (part.to(table.device) for part in (self._words, self._offsets, self._rarity))
        named: Tensor = nn.functional.embedding_bag(
            words, table, offsets, mode="sum", per_sample_weights=rarity.to(table.dtype)
        )
        return self.items + named

    def forward(self, tokens: Tensor, vectors: Tensor | None = None) -> Tensor:
        """`vectors`: those of `self.vectors()`, where they are at hand."""
        vocabulary = self.vocabulary
        added = torch.cat([self.marks, self.vectors() if vectors is None else vectors])
        embeddings = self.causal.get_input_embeddings()(tokens.clamp_max(vocabulary.user - 1))
        of_added = nn.functional.embedding((tokens - vocabulary.user).clamp_min(0), added).to(embeddings.dtype)
        mixed = torch.where((tokens >= vocabulary.user).unsqueeze(-1), of_added, embeddings)
        # Padding stands to the right, where a causal model cannot see it: no mask.
        states: Tensor = _decoder(self.causal)(inputs_embeds=mixed, use_cache=False).last_hidden_state
        return states

    def trained(self) -> dict[str, nn.Parameter]:
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


def build(settings: Tuning, vocabulary: Vocabulary, longest: int) -> ItemLM:
    """A fresh model. Same settings, same weights. `longest`: tokens of the longest prompt."""
    torch.manual_seed(seed_of("model", settings.seed) % 2**63)
    if settings.base == "scratch":
        return ItemLM(_small_llama(settings, vocabulary, longest), vocabulary)
    return ItemLM(_with_lora(settings, vocabulary, longest), vocabulary)


def base_digest(base: str) -> str:
    """What the base is, for fingerprints: `scratch`, or the folder's name and a digest of its files' content."""
    if base == "scratch":
        return base
    folder = Path(base)
    if not (folder / "config.json").is_file():
        raise ConfigError(
            "the base model is not there",
            where=f"tuning.base: {base}",
            do="give 'scratch' or the folder of a Hugging Face checkpoint (config.json, *.safetensors, tokenizer.json)",
        )
    total = hashlib.sha256()
    for file in sorted([folder / "config.json", folder / "tokenizer.json", *folder.glob("*.safetensors")]):
        if file.is_file():
            total.update(file.name.encode())
            with open(file, "rb") as content:
                total.update(hashlib.file_digest(content, "sha256").digest())
    return f"{folder.name}@{total.hexdigest()[:16]}"


def _small_llama(settings: Tuning, vocabulary: Vocabulary, longest: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    if settings.width % settings.heads or (settings.width // settings.heads) % 32:
        raise ConfigError(
            f"width {settings.width} over {settings.heads} heads gives heads that vLLM cannot run",
            where="tuning",
            do="choose width = heads x a multiple of 32",
        )
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary.user,  # words only; `export` adds the rows of marks and items
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


def _with_lora(settings: Tuning, vocabulary: Vocabulary, longest: int) -> Any:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    try:
        causal = AutoModelForCausalLM.from_pretrained(
            settings.base, use_safetensors=True, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"the base model cannot be loaded: {error}", where=f"tuning.base: {settings.base}") from None
    if causal.config.max_position_embeddings < longest:
        raise ConfigError(
            f"prompts of up to {longest} tokens do not fit the base model's {causal.config.max_position_embeddings}",
            where="tuning.events",
            do="lower tuning.events",
        )
    config = LoraConfig(
        r=settings.lora_rank, lora_alpha=2 * settings.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = get_peft_model(causal, config)
    model.enable_input_require_grads()
    return model


def _decoder(causal: Any) -> Any:
    plain = causal.get_base_model() if hasattr(causal, "get_base_model") else causal
    return plain.get_decoder()


def _fit_width(factors: Tensor, width: int) -> Tensor:
    """[n, k] -> [n, width], keeping the inner products as well as the width allows: SVD, then cut or pad with zeros."""
    u, s, _ = torch.linalg.svd(factors, full_matrices=False)
    rotated = (u * s)[:, :width]
    return nn.functional.pad(rotated, (0, width - rotated.shape[1]))
