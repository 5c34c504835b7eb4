"""A Hugging Face instruct checkpoint: config.json, *.safetensors, tokenizer.json, and perhaps a chat template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from rayrec.errors import ConfigError
from rayrec.instructions.chat_template import text_around_message
from rayrec.instructions.safe_tokenizer import SafeTokenizer, TokenIds
from rayrec.reranking.engines.engine import ModelFiles
from rayrec.storage.checkpoint_safety import quantization, require_safe
from rayrec.storage.checkpoint_source import local_folder
from rayrec.storage.hf_checkpoint import UNLOADABLE, checkpoint_digest
from rayrec.storage.tokenizer_safety import require_safe_tokenizer

_CLOSING = "\n\nAnswer:\n"  # Without a chat template. The line break lets a letter start a line, as in the list.
_WHERE = "rerank.checkpoint"


@dataclass(frozen=True)
class Chat:
    """The token ids around the user message of every prompt. `closing_text`: the text of `closing`."""

    opening: TokenIds
    closing: TokenIds
    closing_text: str


@dataclass(frozen=True)
class InstructCheckpoint:
    """A checkpoint on the local disk. `adapter`: the folder of a PEFT LoRA adapter. `open` raises ConfigError."""

    folder: Path
    adapter: Path | None = None

    @classmethod
    def open(cls, source: str, adapter: str | None = None) -> Self:
        """`source`, `adapter`: as rayrec.storage.checkpoint_source says; copied to this node if need be."""
        on_top = Path(local_folder(adapter, "rerank.adapter")) if adapter else None
        found = cls(Path(local_folder(source, _WHERE)), on_top)
        _require_files(found.folder, ("config.json", "tokenizer.json", "*.safetensors"), _WHERE)
        if found.adapter is not None:
            _require_files(found.adapter, ("adapter_config.json", "adapter_model.safetensors"), "rerank.adapter")
            require_safe(found.adapter, f"rerank.adapter: {found.adapter}", adapter=True)
        require_safe(found.folder, found._where)
        require_safe_tokenizer(found.folder, found._where, usable=False)
        return found

    @property
    def digest(self) -> str:
        """The folder's name and a content digest of all files that affect scores."""
        folders = (self.folder,) if self.adapter is None else (self.folder, self.adapter)
        return f"{self.folder.name}@{checkpoint_digest(*folders)}"

    @property
    def quantization(self) -> str | None:
        """The method of quantized weights."""
        return quantization(self.folder, self._where)

    @cached_property
    def tokenizer(self) -> SafeTokenizer:
        require_safe_tokenizer(self.folder, self._where)
        return SafeTokenizer(self.folder / "tokenizer.json")

    @cached_property
    def model_files(self) -> ModelFiles:
        """The checkpoint for an engine."""
        config = self._config()
        return ModelFiles(
            str(self.folder),
            str(config.dtype or "float32").removeprefix("torch."),
            int(config.vocab_size),
            int(config.max_position_embeddings),
            None if self.adapter is None else str(self.adapter),
            self._lora_rank(),
        )

    def chat(self, system: str | None = None) -> Chat:
        """The token ids around one user message, up to the model's answer; `system` must be trusted text."""
        tokenizer = self.tokenizer
        around = text_around_message(self.folder, tokenizer, self._where, system=system)
        if around is None:
            before = tokenizer.encode_trusted(f"{system}\n\n" if system else "")
            return Chat(tokenizer.begin + before, tokenizer.encode_trusted(_CLOSING), _CLOSING)
        opening, closing = around
        return Chat(tokenizer.encode_template(opening), tokenizer.encode_template(closing), closing)

    def answer_ids(self, chat: Chat, answers: Sequence[str]) -> dict[str, int]:
        """Token ids of those `answers` that are exactly one token where the model answers.

        An answer of two tokens would be scored by its first, and answers with a common first token would score alike.
        """
        found: dict[str, int] = {}
        for answer in answers:
            ids = self.tokenizer.encode_template(chat.closing_text + answer)
            if ids[:-1] == chat.closing and ids[-1] not in self.tokenizer.added and ids[-1] not in found.values():
                found[answer] = ids[-1]
        return found

    def letter_ids(self, chat: Chat, letters: str, count: int, where: str) -> TokenIds:
        """Ids of the first `count` usable `letters` as answers. Raises ConfigError, naming `where`, if there are
        fewer."""
        ids = tuple(self.answer_ids(chat, letters).values())[:count]
        if len(ids) < count:
            raise ConfigError(
                f"{count} letters are needed, {len(ids)} are one token each where this checkpoint answers",
                where=f"{where}; {self.folder}",
                hint="lower window, or choose another checkpoint",
            )
        return ids

    @property
    def _where(self) -> str:
        return f"{_WHERE}: {self.folder}"

    def _config(self) -> Any:
        """The Hugging Face config of the text model."""
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)
        except UNLOADABLE as error:
            raise ConfigError(
                f"the checkpoint's config.json cannot be used: {error}",
                where=self._where,
                hint="give the folder of a complete Hugging Face checkpoint",
            ) from None
        return config.get_text_config()

    def _lora_rank(self) -> int:
        if self.adapter is None:
            return 0
        content = json.loads((self.adapter / "adapter_config.json").read_text(encoding="utf8"))
        return max(int(content["r"]), *map(int, content.get("rank_pattern", {}).values()), 1)


def _require_files(folder: Path, patterns: Sequence[str], where: str) -> None:
    for pattern in patterns:
        if not any(folder.glob(pattern)):
            raise ConfigError(
                f"there is no {pattern} in the folder",
                where=f"{where}: {folder}",
                hint="give a checkpoint in the Hugging Face format; weights are read from safetensors only",
            )
