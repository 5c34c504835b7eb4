"""Tiny random instruct checkpoints of three real architectures, each with a tokenizer and a chat template of its own.

qwen3   byte-level BPE, <|im_start|> turns, an empty <think> block where the model answers
llama   byte-level BPE that takes whole words first, a begin-of-text token, a template that writes today's date
gemma   BPE over the metaspace with byte pieces, no system role, turn marks that merges can spell; sliding windows
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

FAMILIES = ("qwen3", "llama", "gemma")
TITLES = [
    f"The {what} of {where}" for what in ("Sound", "Taste", "Colour", "Weight") for where in ("Rome", "Oslo", "Ur")
]
_SPECIAL = {
    "qwen3": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "llama": ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "gemma": ["<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"],
}
TEMPLATES = {
    "qwen3": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
    ),
    "llama": (
        "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ strftime_now('%d %b %Y') }}\n"
        "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}<|eot_id|>"
        "{% for m in messages if m.role != 'system' %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "gemma": (
        "{{ bos_token }}{% for m in messages %}"
        "{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "<start_of_turn>{{ m.role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
}


def build(root: Path, family: str) -> Path:
    folder = root / family
    folder.mkdir()
    tokenizer = _TOKENIZERS[family]()
    special = _SPECIAL[family]
    names = {"bos_token": special[1 if family == "gemma" else 0]} if family != "qwen3" else {}
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=special[0], **names)
    wrapped.chat_template = TEMPLATES[family]
    wrapped.save_pretrained(str(folder))
    torch.manual_seed(7)
    model = _MODELS[family](tokenizer.get_vocab_size() + 3)  # real tables are padded, too
    model.save_pretrained(str(folder), safe_serialization=True)
    return folder


def build_adapter(root: Path, base: Path) -> Path:
    """A LoRA of rank 4 on every linear layer, visibly different from nothing."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(11)
    causal = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    folder = root / "adapter"
    get_peft_model(causal, config).save_pretrained(str(folder))
    return folder


def merged(root: Path, base: Path, adapter: Path) -> Path:
    """`base` with `adapter` in its weights."""
    from peft import PeftModel

    folder = root / "merged"
    causal = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    PeftModel.from_pretrained(causal, str(adapter)).merge_and_unload().save_pretrained(str(folder))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((base / name).read_bytes())
    return folder


def _corpus() -> list[str]:
    ours = "Someone asks for a recommendation. What they took so far, oldest first: candidates Yes No yes no"
    return [*TITLES, ours, *(f"{letter}. {letter.lower()}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")] * 3


def _byte_level(special: list[str], ignore_merges: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer


def _qwen3() -> Tokenizer:
    tokenizer = _byte_level(_SPECIAL["qwen3"], ignore_merges=False)
    tokenizer.add_tokens(["<think>", "</think>"])
    return tokenizer


def _llama() -> Tokenizer:
    tokenizer = _byte_level(_SPECIAL["llama"], ignore_merges=True)
    begin = "<|begin_of_text|>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
    )
    return tokenizer


def _gemma() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    turns = ["<start_of_turn>", "<end_of_turn>"] * 20  # so that merges learn to spell them
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=_SPECIAL["gemma"] + pieces, show_progress=False)
    tokenizer.train_from_iterator([*_corpus(), *turns, "\n"], trainer)
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in _SPECIAL["gemma"]]
    return Tokenizer.from_str(json.dumps(content))


_SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 2048,
    "initializer_range": 0.15,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
    "tie_word_embeddings": True,
}
_TOKENIZERS = {"qwen3": _qwen3, "llama": _llama, "gemma": _gemma}
_MODELS = {
    "qwen3": lambda size: Qwen3ForCausalLM(Qwen3Config(vocab_size=size, **_SHAPE)),
    "llama": lambda size: LlamaForCausalLM(LlamaConfig(vocab_size=size, **_SHAPE)),
    "gemma": lambda size: Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=size,
            **_SHAPE,
            query_pre_attn_scalar=32,
            sliding_window=64,
            layer_types=["sliding_attention", "full_attention"],
        )
    ),
}
