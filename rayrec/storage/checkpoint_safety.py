"""What a checkpoint's folder may hold: files of its own, plain settings, and nothing that loads code or other folders.

A checkpoint is somebody else's data. Its JSON files can name code (`auto_map`), kernels and models to fetch from a hub,
files elsewhere, and layers by the billion. transformers, peft and vLLM follow these names, so the folder is refused
before they see it. What costs time or memory at use, a tokenizer or a chat template, is tried in
rayrec.storage.limited_process.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rayrec.errors import ConfigError
from rayrec.storage import regex_cost

WEIGHT_INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
_HINT = "use a checkpoint whose model and tokenizer transformers has built in, saved with save_pretrained"
_MAX_JSON_BYTES = 64 << 20
_MAX_BYTES = {"tokenizer.json": 256 << 20, "vocab.json": 256 << 20}
_WORDS_AS_KEYS = ("tokenizer.json", "vocab.json", "added_tokens.json")  # keys are tokens
_MOST_FILES = 10_000

# Keys that make a library import code, fetch something, or load another folder; refused at any depth if they are set.
_REFUSED = {
    "auto_map": "names code of the checkpoint",
    "custom_pipelines": "names code of the checkpoint",
    "custom_generate": "names code of the checkpoint",
    "trust_remote_code": "asks for code of the checkpoint to be run",
    "auto_mapping": "names a module to import",
    "megatron_config": "names a module to import",
    "parent_library": "names a module to import",
    "kernel_config": "names kernels to fetch",
    "use_kernels": "asks for kernels to be fetched",
    "speculators_config": "names another model to load",
    "fast_tokenizer_files": "names another tokenizer file",
    "sbert_ce_default_activation_function": "names a class to import",
    "activation_fn": "names a class to import",
    "init_inputs": "gives a tokenizer arguments of its own",
}
_IMPLEMENTATIONS = ("eager", "sdpa", "grouped_mm", "batched_mm")  # of torch; other names are fetched as kernels
_QUANTIZATIONS = ("awq", "gptq", "fp8", "compressed-tensors")  # numbers only; others import packages or fetch kernels
_COUNTS = re.compile(r"(num|n)_(\w+_)?(layers?|heads?|experts|codebooks)|\w*num_hidden_layers|n_layer|n_head")
_MOST_COUNTED, _LARGEST = 4_096, 2**40
_MOST_VALUES = 1_000_000
_LORA_PATTERNS = ("target_modules", "exclude_modules", "layers_pattern")


def require_safe(folder: Path, where: str, *, adapter: bool = False) -> None:
    """Raise ConfigError unless the folder's files are its own and none of its settings leads out of it.

    `where`: the config key and the folder, for the error. `adapter`: the folder of a LoRA adapter.
    """
    names = set()
    for file in files_of(folder, where):
        names.add(file.relative_to(folder).as_posix())
        if file.suffix == ".json":
            content = read_json(file, where)
            if file.name == WEIGHT_INDEX or file.name.endswith(".safetensors.index.json"):
                _require_own_weights(content, file, where)
            elif file.name not in _WORDS_AS_KEYS:
                _require_plain(content, file, where)
            if file.name == "config.json":
                _require_size(content, file, where)
    if adapter and ADAPTER_CONFIG in names:
        _require_lora(read_json(folder / ADAPTER_CONFIG, where), folder / ADAPTER_CONFIG, where)
    elif not adapter and ADAPTER_CONFIG in names:
        raise _refused(
            f"{ADAPTER_CONFIG} is in the checkpoint's own folder: transformers would load the model that it names",
            folder,
            where,
            "give the adapter's folder as rerank.adapter, or delete the file if the adapter is merged",
        )


def quantization(folder: Path, where: str) -> str | None:
    """The method of a quantized checkpoint, by its config.json; None for plain weights. Raises ConfigError."""
    if not (folder / "config.json").is_file():
        return None
    content = read_json(folder / "config.json", where)
    for part in (content, content.get("text_config")) if isinstance(content, dict) else ():
        for key in ("quantization_config", "compression_config"):
            given = part.get(key) if isinstance(part, dict) else None
            if given:
                return str(given.get("quant_method")) if isinstance(given, dict) else "unknown"
    return None


def files_of(folder: Path, where: str) -> list[Path]:
    """Every file below the folder, sorted; hidden ones are left out, as nothing loads them.

    Raises ConfigError for a link that leaves the folder, and for what is no regular file. Links of Hugging Face's
    cache (`snapshots/<revision>/x -> ../../blobs/y`) stay within their repository.
    """
    found = []
    try:
        own = [folder.resolve(strict=True)]
        if own[0].parent.name == "snapshots":
            own.append(own[0].parent.parent / "blobs")
        for path in _walk(folder):
            target = path.resolve(strict=True)
            if not any(target.is_relative_to(place) for place in own):
                raise _refused("a link leads out of the folder", path, where, "copy the file itself into the folder")
            if not stat.S_ISREG(target.stat().st_mode):
                raise _refused("this is no regular file", path, where, "remove it")
            found.append(path)
            if len(found) > _MOST_FILES:
                raise _refused(f"more than {_MOST_FILES:,} files", folder, where, _HINT)
    except (OSError, RuntimeError) as error:  # a broken link, a loop
        raise ConfigError(
            f"the checkpoint cannot be read: {type(error).__name__}", where=where, hint="check links and rights"
        ) from None
    return sorted(found)


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
        else:
            yield path


def read_json(file: Path, where: str) -> Any:
    """The content of a JSON file. Raises ConfigError if it is none, or too large."""
    allowed = _MAX_BYTES.get(file.name, _MAX_JSON_BYTES)
    if (size := file.stat().st_size) > allowed:
        raise _refused(f"{size:,} bytes are too many, allowed {allowed:,}", file, where, _HINT)
    try:
        return json.loads(file.read_text(encoding="utf8"))
    except (ValueError, RecursionError) as error:
        raise _refused(f"this is not usable JSON: {type(error).__name__}", file, where, _HINT) from None


def _require_own_weights(content: Any, file: Path, where: str) -> None:
    weights = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weights, dict):
        raise _refused("the index has no weight_map", file, where, _HINT)
    for name in set(map(str, weights.values())):
        if not re.fullmatch(r"[\w][\w.-]*\.safetensors", name):
            raise _refused("the index names a file outside the folder, or no safetensors file", file, where, _HINT)
        if not (file.parent / name).is_file():
            raise _refused(f"the index names {name}, which is not in the folder", file, where, "copy the whole folder")


def _require_plain(content: Any, file: Path, where: str) -> None:
    todo, seen = [content], 0
    while todo:
        value = todo.pop()
        seen += 1
        if seen > _MOST_VALUES:
            raise _refused(f"more than {_MOST_VALUES:,} values", file, where, _HINT)
        if isinstance(value, list):
            todo += value
        elif isinstance(value, dict):
            todo += value.values()
            for key, given in value.items():
                _require_plain_key(str(key), given, file, where)


def _require_plain_key(key: str, given: Any, file: Path, where: str) -> None:
    if key in _REFUSED and given:
        raise _refused(f"{key} {_REFUSED[key]}", file, where, f"remove it if the model is built in; {_HINT}")
    if key.strip("_").removesuffix("_internal") in ("attn_implementation", "experts_implementation"):
        names = list(given.values()) if isinstance(given, dict) else [given]
        if any(name is not None and name not in _IMPLEMENTATIONS for name in names):
            raise _refused(
                f"{key} is not one of {', '.join(_IMPLEMENTATIONS)}: other names are fetched as kernels",
                file,
                where,
                f"remove {key}",
            )
    if key in ("quantization_config", "compression_config") and given:
        method = given.get("quant_method") if isinstance(given, dict) else None
        if method not in _QUANTIZATIONS:
            raise _refused(
                f"{key}.quant_method is not one of {', '.join(_QUANTIZATIONS)}: others load packages or kernels",
                file,
                where,
                "use the checkpoint without quantization, or one of these methods",
            )
    if key == "quant_method" and given not in _QUANTIZATIONS and given:
        raise _refused(f"quant_method is not one of {', '.join(_QUANTIZATIONS)}", file, where, _HINT)


def _require_size(content: Any, file: Path, where: str) -> None:
    """Refuse a config.json that asks for a model beyond any memory: the layers are made before the weights are read."""
    if not isinstance(content, dict):
        raise _refused("this is not a mapping of settings", file, where, _HINT)
    todo: list[tuple[str, Any]] = list(content.items())
    while todo:
        key, value = todo.pop()
        if isinstance(value, dict):
            todo += value.items()
        elif isinstance(value, list):
            todo += [(key, each) for each in value]
        elif isinstance(value, int) and not isinstance(value, bool):
            most = _MOST_COUNTED if _COUNTS.fullmatch(key) else _LARGEST
            if abs(value) > most:
                raise _refused(f"{key} is {value:.3g}, allowed {most:,}", file, where, _HINT)


def _require_lora(content: Any, file: Path, where: str) -> None:
    if not isinstance(content, dict) or content.get("peft_type") != "LORA":
        raise _refused("peft_type is not LORA", file, where, "give a LoRA adapter, saved with peft")
    ranks = content.get("rank_pattern") or {}
    if not isinstance(ranks, dict) or any(
        isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= 1024
        for rank in (content.get("r"), *ranks.values())
    ):
        raise _refused("r and the values of rank_pattern are whole numbers from 1 to 1024", file, where, _HINT)
    base = content.get("base_model_name_or_path")
    if base is not None and (not isinstance(base, str) or "://" in base):
        raise _refused("base_model_name_or_path is a URL", file, where, "remove it: the base is rerank.checkpoint")
    alphas = content.get("alpha_pattern") or {}
    patterns = [*ranks, *(alphas if isinstance(alphas, dict) else {})]
    for key in _LORA_PATTERNS:
        given = content.get(key)
        patterns += [given] if isinstance(given, str) else []
    for pattern in patterns:
        if problem := regex_cost.problem(pattern):
            raise _refused(f"a pattern of module names {problem}", file, where, "list the modules' names")


def _refused(what: str, file: Path, where: str, hint: str) -> ConfigError:
    return ConfigError(f"the checkpoint is refused: {file.name}: {what}", where=where, hint=hint)
