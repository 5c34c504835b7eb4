"""Tokenizers for untrusted text, which never yields special tokens.

A text is cleaned to one line and encoded by a tokenizer without added tokens. If the ids still contain one
(vocabularies with `<start_of_turn>` as an ordinary piece, byte pieces of control characters), the text is encoded
letter by letter without those ids. Then it is truncated.
"""

from __future__ import annotations

import json
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from rayrec.instructions.text_cleaning import clean

_MAX_CHARS = 4_000  # of a text; the rest is ignored
_CHARS_PER_TOKEN = 8  # upper bound, so that less of a text needs encoding
_CACHED_TEXTS = 50_000  # titles recur for every user
_CONTROL = {f"<0x{byte:02X}>" for byte in (*range(0x20), 0x7F)}

TokenIds = tuple[int, ...]


def tokenizer_without_added_tokens(tokenizer_json: str | Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json, without added and special tokens."""
    content: dict[str, Any] = json.loads(Path(tokenizer_json).read_text(encoding="utf8"))
    plain: dict[str, Any] = {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    return Tokenizer.from_str(json.dumps(content | plain))


class SafeTokenizer:
    """The tokenizer of a checkpoint, with separate methods for untrusted text, trusted text and the chat template."""

    def __init__(self, tokenizer_json: Path) -> None:
        content: dict[str, Any] = json.loads(tokenizer_json.read_text(encoding="utf8"))
        self._full = Tokenizer.from_str(json.dumps(content | {"truncation": None, "padding": None}))
        self._plain = tokenizer_without_added_tokens(tokenizer_json)
        self.added = frozenset(token["id"] for token in content.get("added_tokens") or [])
        control = (self._full.token_to_id(piece) for piece in _CONTROL)
        self._forbidden = self.added | {piece for piece in control if piece is not None}
        self._cached = lru_cache(_CACHED_TEXTS)(self._encode)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_cached"}  # a cache cannot be pickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._cached = lru_cache(_CACHED_TEXTS)(self._encode)

    def encode_untrusted(self, text: str, max_tokens: int, lead: str = " ") -> TokenIds:
        """At most `max_tokens` ids of the text after `lead` (a space or ""), without added or control tokens."""
        return self._cached(text[:_MAX_CHARS], max_tokens, lead)

    def encode_trusted(self, text: str) -> TokenIds:
        """Ids of trusted text, without special tokens."""
        return tuple(self._plain.encode(text, add_special_tokens=False).ids)

    def encode_template(self, text: str) -> TokenIds:
        """Ids of text from the chat template, with its special tokens."""
        return tuple(self._full.encode(text, add_special_tokens=False).ids)

    @property
    def begin(self) -> TokenIds:
        """The special tokens that the tokenizer prepends to any text."""
        ids: list[int] = self._full.encode("a", add_special_tokens=True).ids
        return tuple(takewhile(self.added.__contains__, ids))

    def _encode(self, text: str, max_tokens: int, lead: str) -> TokenIds:
        words = lead + clean(text, _CHARS_PER_TOKEN * max_tokens)
        ids: list[int] = self._plain.encode(words, add_special_tokens=False).ids
        if not self._forbidden.isdisjoint(ids):
            letters = (token for letter in words for token in self._plain.encode(letter, add_special_tokens=False).ids)
            ids = [token for token in letters if token not in self._forbidden]
        return tuple(ids[:max_tokens])
