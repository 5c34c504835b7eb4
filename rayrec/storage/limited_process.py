"""Runs what a checkpoint brings, its chat template and its tokenizer, in a process of limited time and memory.

A template is a program, and a tokenizer has patterns and replacements; either may run for ever or fill the memory.
This file is also the program of that process: it imports nothing of rayrec, so that it starts in a fraction of a
second.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

TEMPLATE_CPU_S, TOKENIZER_CPU_S = 3, 10  # seconds of one processor; the largest published tokenizer takes two to load
WALL_S = 120.0  # a busy machine gives a process a tenth of a processor
_MEMORY = 4 << 30  # bytes of address space
_MAX_OUTPUT = 1_000_000  # bytes
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT")


class LimitError(Exception):
    """The process took too long, used too much memory, or gave too much output."""


class RefusedError(Exception):
    """The template or the tokenizer raised an error of its own."""


def render(template: str, variables: dict[str, Any]) -> str:
    """The text of a chat template. Raises LimitError, RefusedError."""
    return str(_run({"task": "render", "template": template, "variables": variables}, TEMPLATE_CPU_S))


def probe_tokenizer(path: Path, texts: list[str]) -> int:
    """Load a tokenizer.json and encode the texts; return the number of ids. Raises LimitError, RefusedError."""
    return int(_run({"task": "tokenize", "path": str(path), "texts": texts}, TOKENIZER_CPU_S))


def _run(task: dict[str, Any], cpu_s: int) -> Any:
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    environment |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-I", __file__],
            input=json.dumps(task | {"cpu_s": cpu_s}).encode(),
            capture_output=True,
            env=environment,
            timeout=WALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LimitError(f"more than {WALL_S:.0f} seconds") from None
    if done.returncode:
        raise LimitError(f"more than {cpu_s} seconds of a processor, or more than {_MEMORY >> 30} GiB of memory")
    answer = json.loads(done.stdout)
    if "limit" in answer:
        raise LimitError(answer["limit"])
    if "error" in answer:
        raise RefusedError(answer["error"])
    return answer["result"]


def _main() -> None:
    task = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CPU, (task["cpu_s"], task["cpu_s"]))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        result: Any = _rendered(task) if task["task"] == "render" else _encoded(task)
    except MemoryError:
        answer: dict[str, Any] = {"limit": "too much memory"}
    except RecursionError:
        answer = {"limit": "too many levels"}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"[:500]}
    else:
        answer = {"result": result}
    text = json.dumps(answer)
    sys.stdout.write(text if len(text) <= _MAX_OUTPUT else json.dumps({"limit": f"more than {_MAX_OUTPUT:,} bytes"}))


def _rendered(task: dict[str, Any]) -> str:
    """As transformers renders chat templates (transformers.utils.chat_template_utils)."""
    import jinja2
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, **more: Any) -> str:
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=bool(more.get("sort_keys")),
        )

    class Generation(jinja2.ext.Extension):
        """`{% generation %}`: marks the assistant's turn; the text within is shown."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body).set_lineno(line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )

    class Namespace(jinja2.utils.Namespace):
        """Without underscores in front of names, which could reach Python's own."""

        def __init__(*args: Any, **kwargs: Any) -> None:
            namespace, *given = args
            values = dict(*given, **kwargs)
            if any(str(name).startswith("_") for name in values):
                raise jinja2.exceptions.SecurityError("a namespace's names do not begin with an underscore")
            jinja2.utils.Namespace.__init__(namespace, values)

        def __setitem__(self, name: str, value: Any) -> None:
            if str(name).startswith("_"):
                raise jinja2.exceptions.SecurityError("a namespace's names do not begin with an underscore")
            jinja2.utils.Namespace.__setitem__(self, name, value)

    environment.filters["tojson"] = tojson
    environment.globals["namespace"] = Namespace
    environment.globals["raise_exception"] = raise_exception
    pieces, length = [], 0
    for piece in environment.from_string(task["template"]).generate(**task["variables"]):
        pieces.append(piece)
        length += len(piece)
        if length > _MAX_OUTPUT:
            break
    return "".join(pieces)


def _encoded(task: dict[str, Any]) -> int:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(task["path"])
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return sum(len(tokenizer.encode(text, add_special_tokens=False).ids) for text in task["texts"])


if __name__ == "__main__":
    _main()
