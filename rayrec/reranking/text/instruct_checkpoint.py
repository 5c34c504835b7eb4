"""Any local Hugging Face instruct checkpoint: config.json, *.safetensors, tokenizer.json, maybe a chat template.

The chat template is rendered once, around a mark, and split there: what stands before and after the mark are the
template's own ids (`Chat`), everything between them is put together from ids here. No text of a user or an item is ever
rendered through the template or parsed with its special tokens. Templates that write today's date get a fixed one, or
scores would change overnight.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from rayrec.errors import ConfigError
from rayrec.reranking.text.untrusted_text import SafeTokenizer, TokenIds
from rayrec.storage.hf_checkpoint import checkpoint_digest

_MARK = "RAYREC-MESSAGE-HERE"
_DAY = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}"  # the date that Llama 3's templates fall back to
_CLOSING = "\n\nAnswer:\n"  # without a chat template; a line break, so that labels begin a line as in the list
_WHERE = "rerank.checkpoint"


@dataclass(frozen=True)
class Chat:
    """What stands around the user's message in every prompt. `closing_text` is what `closing` was read from."""

    opening: TokenIds
    closing: TokenIds
    closing_text: str


@dataclass(frozen=True)
class InstructCheckpoint:
    """Files on this machine; `adapter`: a PEFT LoRA folder to be used on top. Raises ConfigError when opened."""

    folder: Path
    adapter: Path | None = None

    @classmethod
    def open(cls, folder: str, adapter: str | None = None) -> Self:
        found = cls(Path(folder), Path(adapter) if adapter else None)
        _require_files(found.folder, ("config.json", "tokenizer.json", "*.safetensors"), _WHERE)
        if found.adapter is not None:
            _require_files(found.adapter, ("adapter_config.json", "adapter_model.safetensors"), "rerank.adapter")
        return found

    @property
    def digest(self) -> str:
        """The folder's name and the digest of all that shapes a score; the same content, the same digest."""
        folders = (self.folder,) if self.adapter is None else (self.folder, self.adapter)
        return f"{self.folder.name}@{checkpoint_digest(*folders)}"

    @cached_property
    def words(self) -> SafeTokenizer:
        return SafeTokenizer(self.folder / "tokenizer.json")

    @cached_property
    def config(self) -> Any:
        """The text model's Hugging Face config."""
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(
                self.folder, local_files_only=True, trust_remote_code=False
            ).get_text_config()
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"the checkpoint's config.json cannot be used: {error}", where=f"{_WHERE}: {self.folder}"
            ) from None

    def dtype(self, choice: str) -> str:
        """`choice`, or for "auto" the dtype that the weights are stored in."""
        return choice if choice != "auto" else str(self.config.dtype or "float32").removeprefix("torch.")

    @property
    def lora_rank(self) -> int:
        """Of the adapter; 0 without one."""
        if self.adapter is None:
            return 0
        content = json.loads((self.adapter / "adapter_config.json").read_text(encoding="utf8"))
        return max(int(content["r"]), *map(int, content.get("rank_pattern", {}).values()), 1)

    def chat(self, system: str | None = None) -> Chat:
        """The ids around one user message, up to where the model answers; `system`: our own words, never others'."""
        words = self.words
        rendered = self._rendered(system)
        if rendered is None:
            return Chat(words.begin + words.own(f"{system}\n\n" if system else ""), words.own(_CLOSING), _CLOSING)
        opening, closing = rendered
        return Chat(words.whole(opening), words.whole(closing), closing)

    def answer_ids(self, chat: Chat, answers: Sequence[str]) -> dict[str, int]:
        """Those of `answers` that are exactly one token of their own where the model answers, with their ids."""
        found: dict[str, int] = {}
        for answer in answers:
            ids = self.words.whole(chat.closing_text + answer)
            if ids[:-1] == chat.closing and ids[-1] not in self.words.added and ids[-1] not in found.values():
                found[answer] = ids[-1]
        return found

    def _rendered(self, system: str | None) -> tuple[str, str] | None:
        """The chat template's text before and after the user's message; None where there is no template."""
        from jinja2 import TemplateError
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
        if not set(tokenizer.added_tokens_decoder) <= self.words.added:
            raise ConfigError(
                "tokenizer.json lacks special tokens that tokenizer_config.json names",
                where=f"{_WHERE}: {self.folder}",
                hint="save the tokenizer again with transformers (save_pretrained), which writes them into one file",
            )
        if tokenizer.chat_template is None:
            return None
        messages = [{"role": "system", "content": system}] if system else []
        try:
            text: str = tokenizer.apply_chat_template(
                [*messages, {"role": "user", "content": _MARK}],
                chat_template=_DAY + tokenizer.get_chat_template(),
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
            )
        except (TemplateError, ValueError) as error:
            raise ConfigError(
                f"the checkpoint's chat template refuses the prompt: {error}", where=f"{_WHERE}: {self.folder}"
            ) from None
        if text.count(_MARK) != 1:
            raise ConfigError(
                "the checkpoint's chat template does not show the user's message exactly once",
                where=f"{_WHERE}: {self.folder}",
            )
        before, after = text.split(_MARK)
        return before, after


def _require_files(folder: Path, patterns: Sequence[str], where: str) -> None:
    for pattern in patterns:
        if not any(folder.glob(pattern)):
            raise ConfigError(
                f"there is no {pattern} in the folder",
                where=f"{where}: {folder}",
                hint="give a local folder in the Hugging Face format; weights are read from safetensors only",
            )
