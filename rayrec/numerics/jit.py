"""numba's compiler, for functions over arrays whose loops numpy cannot express without large intermediates.

Compiled on first use in each process (about a second), without the GIL. Nothing is cached on disk: numba's cache is
pickled code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def jit(function: Callable[..., Any]) -> Any:
    """Compile `function` for the types of its arguments."""
    return numba.njit(nogil=True)(function)
