"""Prompts for an instruct checkpoint in its own chat template, with titles in them that can be nothing but words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from rayrec.errors import ConfigError

_MARK = "titles stand here"  # found again in the rendered template, where it is cut


class Chat:
    """One checkpoint's way of being asked. Raises ConfigError for folders that hold no instruct checkpoint."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = str(folder)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                self._folder, local_files_only=True, trust_remote_code=False
            )
            content = json.loads((Path(folder) / "tokenizer.json").read_text(encoding="utf8"))
        except (OSError, ValueError) as error:
            raise self._unusable(f"has no usable tokenizer: {error}") from None
        if not self._tokenizer.chat_template:
            raise self._unusable("has no chat template, so it is no instruct checkpoint")
        # Without its added tokens a tokenizer finds none of them in a text.
        self._plain = Tokenizer.from_str(json.dumps(content | {"added_tokens": [], "post_processor": None}))
        added = self._tokenizer.added_tokens_decoder
        self._special = frozenset(self._tokenizer.all_special_ids) | {
            id for id, token in added.items() if token.special
        }

    def around(self, request: str) -> tuple[list[int], list[int]]:
        """Token ids before and behind the titles of a prompt: one message of the user, and the answer's beginning."""
        message = [{"role": "user", "content": f"{request}\n\n{_MARK}"}]
        text = self._tokenizer.apply_chat_template(
            message, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        parts = text.split(_MARK)
        if len(parts) != 2:
            raise self._unusable("has a chat template that does not show the user's message once")
        head, tail = (self._tokenizer.encode(part, add_special_tokens=False) for part in parts)
        return head, tail

    def lines(self, titles: Sequence[str]) -> list[list[int]]:
        """Token ids of each title on a line of its own; no special token is ever among them."""
        encoded = self._plain.encode_batch([f"- {title}\n" for title in titles], add_special_tokens=False)
        return [[token for token in line.ids if token not in self._special] for line in encoded]

    def _unusable(self, why: str) -> ConfigError:
        return ConfigError(
            f"the teacher's checkpoint {why}",
            where=self._folder,
            hint="give the folder of a Hugging Face instruct checkpoint (config.json, *.safetensors, tokenizer.json)",
        )
