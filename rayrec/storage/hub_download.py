"""Downloads one revision of a repository of the Hugging Face hub, by huggingface_hub in a process of its own.

That library reads HF_HUB_OFFLINE and HF_ENDPOINT when it is imported, and engines run with HF_HUB_OFFLINE=1, so that
nothing but this file reaches a hub. This file is also the program of that process, and imports nothing of rayrec there.
Private repositories need HF_TOKEN.
With HF_HUB_OFFLINE=1 in the environment nothing is downloaded: the revision must be in the hub's cache of the machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

_ANSWERS = {"1", "on", "yes", "true"}  # as huggingface_hub reads them
_OFFLINE = os.environ.get("HF_HUB_OFFLINE", "").lower() in _ANSWERS  # before an engine sets it for itself
_WRONG = ("RepositoryNotFoundError", "RevisionNotFoundError", "GatedRepoError", "DisabledRepoError", "BadRequestError")


def download(
    repository: str, revision: str, wanted: Sequence[str], unwanted: Sequence[str], folder: Path, where: str
) -> None:
    """Fill `folder` with the repository's files that match a wanted pattern and no unwanted one (fnmatch; `*` also
    matches `/`).

    Raises ConfigError if there is no such repository or revision or it may not be read, or offline without a copy;
    TransientStorageError if the hub does not answer.
    """
    from rayrec.errors import ConfigError, TransientStorageError

    task = {
        "source": {"repo_id": repository, "revision": revision},
        "patterns": {"allow_patterns": list(wanted), "ignore_patterns": list(unwanted)},
        "folder": str(folder),
    }
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1" if _OFFLINE else "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    # -P: without this file's folder in front of the modules' path.
    command = [sys.executable, "-P", __file__]
    done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True, env=environment, check=False)
    answer = done.stdout.strip().rpartition("\n")[2]
    if done.returncode == 0 and answer:
        problem: list[str] | None = json.loads(answer)
    else:
        problem = ["ended", f"exit {done.returncode}: {done.stderr.strip()[-300:]}"]
    if problem is None:
        return
    kind, text = problem
    if _OFFLINE:
        raise ConfigError(
            "the checkpoint is in no cache of this machine, and HF_HUB_OFFLINE is set",
            where=where,
            hint="fill the hub's cache on every node (`hf download`), give a folder or a URL, or unset HF_HUB_OFFLINE",
        )
    if kind in _WRONG:
        raise ConfigError(
            f"the hub does not give the checkpoint: {kind}: {text}",
            where=where,
            hint="check name and revision; a private or gated repository needs HF_TOKEN in the environment",
        )
    raise TransientStorageError(
        f"the checkpoint cannot be downloaded: {kind}: {text}",
        where=where,
        hint="check that this node reaches the hub (HF_ENDPOINT), or give a folder or a URL",
    )


def _main() -> None:
    from huggingface_hub import constants, snapshot_download

    task = json.load(sys.stdin)
    folder, patterns = Path(task["folder"]), task["patterns"]
    try:
        if constants.HF_HUB_OFFLINE:
            cached = Path(snapshot_download(**task["source"], local_files_only=True))
            for file in cached.rglob("*"):
                name = file.relative_to(cached).as_posix()
                wanted = any(fnmatch(name, pattern) for pattern in patterns["allow_patterns"])
                if wanted and not any(fnmatch(name, pattern) for pattern in patterns["ignore_patterns"]):
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, folder / name)
        else:
            snapshot_download(**task["source"], **patterns, local_dir=folder)
            shutil.rmtree(folder / ".cache", ignore_errors=True)  # of the download
    except Exception as error:
        print(json.dumps([type(error).__name__, str(error)[:500]]))
    else:
        print("null")


if __name__ == "__main__":
    _main()
