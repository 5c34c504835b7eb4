"""The erasure list (GDPR): users whose rows every ingest drops, and the state of each erasure request.

The list is the union of all requests. It must recognise users whose events arrive again later without revealing who
they are, so it holds tokens: BLAKE2b of the id, keyed with a salt per output root. Anyone who can read the folder can
still test a guessed id, so protect it like the data itself.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.errors import DataError
from rayrec.numerics.hashing import digest
from rayrec.storage import Storage, layout

_TOKEN_BYTES = 16
_FIELDS = re.compile(r"""[,;|\t\r\n]|::|\\[tnr]""")
_WORDS = re.compile(r"""[\s,;|"'\\{}()\[\]<>:=&?/]+""")
_LONGEST_ID = 256  # characters


@dataclass(frozen=True)
class ErasureList:
    """Erased users, as tokens. Picklable."""

    salt: bytes = b""
    tokens: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def digest(self) -> str:
        """Digest of the list, for fingerprints."""
        return digest(sorted(self.tokens))

    def token(self, user_id: str) -> str:
        return hashlib.blake2b(user_id.encode(), digest_size=_TOKEN_BYTES, key=self.salt).hexdigest()

    def contains(self, user_ids: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
        """Bool [n]: which of these users (strings or dictionaries, with nulls) are on the list."""
        if isinstance(user_ids, pa.ChunkedArray):
            user_ids = user_ids.combine_chunks()
        if not self.tokens or not len(user_ids):
            return np.zeros(len(user_ids), np.bool_)
        encoded = user_ids if pa.types.is_dictionary(user_ids.type) else pc.dictionary_encode(user_ids)
        listed = np.array([self.token(user) in self.tokens for user in encoded.dictionary.to_pylist()], np.bool_)
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        found: npt.NDArray[np.bool_] = np.append(listed, False)[codes]
        return found

    def mentioned_in(self, texts: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
        """Bool [n]: which of these texts (raw rows, with nulls) have the id of a user on the list as a part.

        Parts: the strings and numbers of JSON at any depth, and of every text what stands between delimiters, quotes
        and white space.
        """
        if not self.tokens:
            return np.zeros(len(texts), np.bool_)
        return np.array([self._mentions(text) for text in texts.to_pylist()], np.bool_)

    def _mentions(self, text: str | None) -> bool:
        return bool(text) and any(self.token(part) in self.tokens for part in _parts(text))

    def tokens_in(self, user_ids: pa.Array | pa.ChunkedArray) -> set[str]:
        """The tokens of the users that are on the list."""
        listed = pa.array(self.contains(user_ids))
        return {self.token(user) for user in pc.unique(user_ids.filter(listed).cast(pa.string())).to_pylist()}


@dataclass(frozen=True)
class ErasureRequest:
    """Users added to the list together."""

    id: str
    requested_at: str
    tokens: tuple[str, ...]  # sorted
    earlier: tuple[str, ...]  # ids of the requests before this one


def _parts(text: str | None) -> set[str]:
    """What may be an id in a raw row."""
    found, todo = set[str](), [text or ""]
    while todo:
        part = todo.pop()
        if part[:1] in ("{", "[", '"'):
            with suppress(ValueError, RecursionError):
                todo += _scalars(json.loads(part))
        for delimiters in (_FIELDS, _WORDS):
            found |= {piece.strip() for piece in delimiters.split(part)}
        found.add(part.strip())
    return {part for part in found - {""} if len(part) <= _LONGEST_ID}


def _scalars(content: Any) -> list[str]:
    """Strings and numbers of JSON content as text, without strings that are the content itself."""
    found, todo = [], [content]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            todo += value.values()
        elif isinstance(value, list):
            todo += value
        elif isinstance(value, str | int | float) and value is not content:
            found.append(str(value))
    return found


def read(storage: Storage) -> ErasureList:
    """The current list; empty without any request."""
    found = requests(storage)
    if not found:
        return ErasureList()
    return ErasureList(_salt(storage), frozenset(token for request in found for token in request.tokens))


def requests(storage: Storage) -> list[ErasureRequest]:
    """All requests, oldest first."""
    paths = [info.path for info in storage.list(layout.ERASURE_REQUESTS)]
    return sorted((_request(storage, path) for path in paths), key=lambda each: (len(each.earlier), each.id))


def pending_requests(storage: Storage) -> list[ErasureRequest]:
    """Requests without a certificate, oldest first."""
    done = {info.path for info in storage.list(layout.ERASURE_CERTIFICATES)}
    return [request for request in requests(storage) if layout.erasure_certificate_path(request.id) not in done]


def before(storage: Storage, request: ErasureRequest) -> ErasureList:
    """The list before this request."""
    tokens = {token for each in requests(storage) if each.id in request.earlier for token in each.tokens}
    return ErasureList(_salt(storage), frozenset(tokens)) if tokens else ErasureList()


def of(storage: Storage, request: ErasureRequest) -> ErasureList:
    """The users of this request alone."""
    return ErasureList(_salt(storage), frozenset(request.tokens))


def add(storage: Storage, user_ids: pa.Array) -> ErasureRequest | None:
    """Add users to the list as one request; None if all are on it already."""
    storage.create(layout.ERASURE_SALT, json.dumps({"salt": secrets.token_hex(32)}).encode())
    listed = read(storage)
    whole = ErasureList(_salt(storage), listed.tokens)
    tokens = sorted({whole.token(user) for user in user_ids.to_pylist()} - whole.tokens)
    if not tokens:
        return None
    earlier = tuple(sorted(each.id for each in requests(storage)))
    request = ErasureRequest(
        digest([tokens, earlier]), datetime.now(UTC).isoformat(timespec="seconds"), tuple(tokens), earlier
    )
    content = {"requested_at": request.requested_at, "earlier": earlier, "tokens": tokens}
    storage.create(layout.erasure_request_path(request.id), (json.dumps(content, indent=1) + "\n").encode())
    return request


def _request(storage: Storage, path: str) -> ErasureRequest:
    content = _json(storage, path)
    try:
        tokens, earlier = tuple(map(str, content["tokens"])), tuple(map(str, content["earlier"]))
        return ErasureRequest(layout.erasure_request_id(path), str(content["requested_at"]), tokens, earlier)
    except (KeyError, TypeError):
        raise _unreadable(storage, path) from None


def _salt(storage: Storage) -> bytes:
    try:
        return bytes.fromhex(_json(storage, layout.ERASURE_SALT)["salt"])
    except (KeyError, TypeError, ValueError):
        raise _unreadable(storage, layout.ERASURE_SALT) from None


def _json(storage: Storage, path: str) -> Any:
    try:
        return json.loads(storage.read(path))
    except ValueError:
        raise _unreadable(storage, path) from None


def _unreadable(storage: Storage, path: str) -> DataError:
    return DataError(
        "the erasure list cannot be read",
        where=storage.url(path),
        hint="restore the file: without it, erased users would come back",
    )
