"""A home folder for libraries, where the process has none: an unknown user id in a container, or a read-only image.

vLLM, torch and Triton keep caches below `~`, and ask for the user's name. OpenShift runs containers under a user id
that has no entry in /etc/passwd, often with HOME unset or `/`.
"""

from __future__ import annotations

import getpass
import os

from rayrec.storage import temporary_folders

_CACHES = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TRITON_HOME")


def ensure() -> None:
    """Set what is missing in the environment of this process, which its child processes inherit.

    Without a home folder HOME becomes a temporary folder of this process. A home folder that cannot be written stays
    (it may hold credentials); only caches go elsewhere. Safe to call again.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"uid-{os.getuid()}"
    home = os.path.expanduser("~")
    if not os.path.isabs(home):
        os.environ["HOME"] = str(temporary_folders.process_folder())
    elif not os.access(home, os.W_OK):
        for name in _CACHES:
            if name not in os.environ:
                os.environ[name] = str(temporary_folders.process_folder())
