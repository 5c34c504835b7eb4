"""Files under one root, with the two atomic writes that publication stands on."""

from rayrec.storage.files import FileInfo, Storage

__all__ = ["FileInfo", "Storage"]
