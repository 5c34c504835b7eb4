"""Hugging Face checkpoints: digest, causal LM (plain or with LoRA) and tokenizer.

Safetensors only, and no code of the checkpoint runs. A checkpoint is given as rayrec.storage.checkpoint_source says: a
folder, or what is copied once a node. `where` names the config setting, for error messages.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rayrec.errors import ConfigError
from rayrec.storage import checkpoint_safety
from rayrec.storage.checkpoint_source import is_loaded, local_folder
from rayrec.storage.tokenizer_safety import require_safe_tokenizer

_LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")  # of a module's name
os.environ.setdefault("USE_HUB_KERNELS", "NO")  # read when transformers is imported: no kernels from a hub


UNLOADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError, SafetensorError)
"""What transformers raises for files that it cannot use: wrong types, missing keys, packages that are not installed."""


def checkpoint_digest(*folders: Path) -> str:
    """16 hex digits over the content of all files that change results.

    `folders`: the checkpoint, and its adapter if there is one.
    """
    total = hashlib.sha256()
    for place, folder in enumerate(folders):
        for file in checkpoint_safety.files_of(folder, str(folder)):
            name = file.relative_to(folder).as_posix()
            if is_loaded(name):
                total.update(f"{place}/{name}\0".encode())
                with open(file, "rb") as content:
                    total.update(hashlib.file_digest(content, "sha256").digest())
    return total.hexdigest()[:16]


def base_model_id(source: str, where: str) -> str:
    """Name and `checkpoint_digest`, for fingerprints. Raises ConfigError."""
    folder = local_folder(source, where)
    path = Path(folder)
    if missing := [name for name in ("config.json", "*.safetensors") if not any(path.glob(name))]:
        raise ConfigError(
            f"there is no base model in the folder: no {' and no '.join(missing)}",
            where=f"{where}: {folder}",
            hint="give 'scratch' or a Hugging Face checkpoint's folder (config.json, *.safetensors, tokenizer.json)",
        )
    checkpoint_safety.require_safe(path, f"{where}: {folder}")
    require_unquantized(path, f"{where}: {folder}")
    return f"{path.name}@{checkpoint_digest(path)}"


def require_unquantized(folder: Path, where: str, hint: str = "give the checkpoint without quantization") -> None:
    """Raise ConfigError for quantized weights: only vLLM computes with them."""
    if (method := checkpoint_safety.quantization(folder, where)) is not None:
        raise ConfigError(f"the checkpoint is quantized ({method}), which only vLLM supports", where=where, hint=hint)


def stored_dtype(folder: str) -> str:
    """The data type of a checkpoint's weights by its config.json, such as `bfloat16`."""
    content = checkpoint_safety.read_json(Path(folder) / "config.json", folder)
    named = [content, content.get("text_config") or {}] if isinstance(content, dict) else []
    found = [part[key] for part in named for key in ("dtype", "torch_dtype") if isinstance(part.get(key), str)]
    return found[0] if found else "float32"


def _require_folder(folder: str, where: str, what: str) -> None:
    """transformers would take another name for one of a hub, and look into the cache of the machine."""
    if not Path(folder).is_dir():
        raise ConfigError(
            f"{what}: there is no such folder",
            where=f"{where}: {folder}",
            hint="give a folder, a URL, or hf://organisation/name@commit",
        )


def load_causal_lm(source: str, where: str, **more: Any) -> Any:
    """Load the causal LM; `more` is passed to `from_pretrained`. Raises ConfigError."""
    from transformers import AutoModelForCausalLM

    folder = local_folder(source, where)
    _require_folder(folder, where, "the checkpoint cannot be loaded")
    checkpoint_safety.require_safe(Path(folder), f"{where}: {folder}")
    require_unquantized(Path(folder), f"{where}: {folder}")
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False, local_files_only=True, **more
        )
    except UNLOADABLE as error:
        raise ConfigError(
            f"the checkpoint cannot be loaded: {error}",
            where=f"{where}: {folder}",
            hint="give the folder of a complete Hugging Face checkpoint",
        ) from None


def load_causal_lm_with_lora(source: str, rank: int, where: str, *, last_layers: int | None = None, **more: Any) -> Any:
    """Like `load_causal_lm`, with new LoRA weights (alpha 2 x rank) on all linear layers except the head.

    `last_layers`: only in the last so many decoder layers; None: in all.
    """
    from peft import LoraConfig, get_peft_model

    causal = load_causal_lm(source, where, **more)
    modules = "all-linear" if last_layers is None else _linear_modules(causal, last_layers)
    if not modules:
        raise ConfigError(
            "the checkpoint's layers are not numbered as usual, so the last ones cannot be told",
            where=f"{where}: {source}",
            hint="leave text_tuning.layers out",
        )
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=modules, task_type="CAUSAL_LM")
    return get_peft_model(causal, config)


def _linear_modules(causal: Any, last_layers: int) -> list[str]:
    """The names of the linear modules of the last decoder layers."""
    from torch import nn

    found = {name: _LAYER.search(name) for name, module in causal.named_modules() if isinstance(module, nn.Linear)}
    numbers = {name: int(match[1]) for name, match in found.items() if match}
    first = max(numbers.values(), default=0) + 1 - last_layers
    return sorted(name for name, number in numbers.items() if number >= first)


def load_tokenizer(source: str, where: str) -> Any:
    """Load the fast tokenizer. Raises ConfigError if there is none."""
    from transformers import AutoTokenizer

    folder = local_folder(source, where)
    _require_folder(folder, where, "the base model has no usable tokenizer")
    checkpoint_safety.require_safe(Path(folder), f"{where}: {folder}")
    require_safe_tokenizer(Path(folder), f"{where}: {folder}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except UNLOADABLE as error:
        raise ConfigError(
            f"the base model has no usable tokenizer: {error}",
            where=f"{where}: {folder}",
            hint="give the folder of a Hugging Face checkpoint with tokenizer.json",
        ) from None
    if not tokenizer.is_fast:
        raise ConfigError(
            "the base model's tokenizer has no tokenizer.json",
            where=f"{where}: {folder}",
            hint="give a base model with a fast tokenizer (tokenizer.json)",
        )
    return tokenizer
