"""Refuses a tokenizer.json whose patterns or replacements could take minutes or gigabytes for one text.

Its patterns are read first (rayrec.storage.regex_cost). Then it encodes difficult texts in a process of limited time
and memory: a tokenizer is used inside actors, where nothing could stop it.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from rayrec.errors import ConfigError
from rayrec.storage import checkpoint_safety, limited_process, regex_cost

_CHARS = 4_000  # as rayrec.instructions.safe_tokenizer allows
_LONGEST_REPLACEMENT = 200  # characters
_MOST_STEPS = 100  # of normalizers and other parts
_RUNS = " \n\ta1A!'-_é漢\u0301☃"
_MOST_RUNS = 40
_UNUSABLE = "cannot be used"


def require_safe_tokenizer(folder: Path, where: str, *, usable: bool = True) -> None:
    """Raise ConfigError for a tokenizer.json that is too costly or, with `usable`, cannot be used at all.

    `where`: for the error.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        return
    stat = path.stat()
    problem = _problem(str(path.resolve()), stat.st_size, stat.st_mtime_ns, where)
    if problem is not None and (usable or not problem.startswith(_UNUSABLE)):
        raise ConfigError(
            f"the checkpoint is refused: tokenizer.json {problem}",
            where=where,
            hint="use a tokenizer that transformers saved (save_pretrained)",
        )


@lru_cache(256)
def _problem(path: str, size: int, version: int, where: str) -> str | None:
    """`size` and `version` (mtime) are keys of the cache."""
    content = checkpoint_safety.read_json(Path(path), where)
    if not isinstance(content, dict):
        return f"{_UNUSABLE}: it is not a mapping"
    parts = [content.get(name) for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder")]
    patterns, replacements, steps = _parts(parts)
    if steps > _MOST_STEPS:
        return f"has more than {_MOST_STEPS} steps"
    if any(len(text) > _LONGEST_REPLACEMENT for text in replacements):
        return f"replaces a text by more than {_LONGEST_REPLACEMENT} characters"
    for pattern in patterns:
        if reason := regex_cost.problem(pattern):
            return f"has a pattern that {reason}"
    try:
        limited_process.probe_tokenizer(Path(path), _texts([*patterns, *replacements]))
    except limited_process.LimitError as error:
        return f"takes {error} for a text of {_CHARS:,} characters"
    except limited_process.RefusedError as error:
        return f"{_UNUSABLE}: {error}"
    return None


def _parts(parts: list[Any]) -> tuple[list[str], list[str], int]:
    """Patterns, literal strings, and the number of steps at any depth."""
    patterns, literals, steps, todo = [], [], 0, list(parts)
    while todo:
        value = todo.pop()
        if isinstance(value, list):
            todo += value
        elif isinstance(value, dict):
            steps += "type" in value
            for key, inner in value.items():
                if key == "Regex" and isinstance(inner, str):
                    patterns.append(inner)
                elif key in ("content", "prepend", "replacement", "String") and isinstance(inner, str):
                    literals.append(inner)
                elif key not in ("special_tokens", "precompiled_charsmap"):
                    todo.append(inner)
    return patterns, literals, steps


def _texts(sources: list[str]) -> list[str]:
    """Long runs of characters, those in patterns among them, each also with an end that does not fit."""
    letters = dict.fromkeys(_RUNS + "".join(char for source in sources for char in source if char.isalnum()))
    texts = []
    for letter in list(letters)[:_MOST_RUNS]:
        texts += [letter * _CHARS, letter * (_CHARS - 1) + "\x01"]
    pairs = ("a1", "a ", "aA", "a'", "\r\n", "1,", "é ", "ab")
    return [*texts, *(pair * (_CHARS // 2) for pair in pairs)]
