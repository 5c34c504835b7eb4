"""Installs the storage faults in workers of Ray: Python imports this file, whose folder is on their PYTHONPATH."""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

BACKENDS = ("rayrec.storage.backends", "rayrec.storage.remote_backends")
sys.path.append(str(Path(__file__).parents[1]))


class _Installing(importlib.abc.Loader):
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        created: ModuleType | None = self._loader.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        import storage_faults

        self._loader.exec_module(module)
        storage_faults.install(module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name not in BACKENDS:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None:
            spec.loader = _Installing(spec.loader)
        return spec


if os.environ.get("RAYREC_FAULTS"):
    sys.meta_path.insert(0, _Finder())
