"""Files under one root, with atomic replacement and atomic creation."""

from rayrec.storage.backends import FileInfo
from rayrec.storage.files import Storage

__all__ = ["FileInfo", "Storage"]
