"""Files under one root, with atomic replacement and atomic creation."""

from rayrec.storage.files import FileInfo, Storage

__all__ = ["FileInfo", "Storage"]
