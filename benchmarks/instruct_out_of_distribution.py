"""Requests in the words of somebody who had read neither the templates, the teacher's phrases nor the stop words.

The held-out phrases were written by the hands that wrote tuning's, and read while it was built. out_of_distribution_requests.yaml
was written by a language model that saw nothing of this project, after all that reads requests had been settled. It is
the third such set: one choice had seen the figures of the second. Whoever changes something to raise the figures of
this one has read it: then it wants to be written anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import yaml

from rayrec.instructions.facet_scheme import CATEGORY, DECADE

_FILE = Path(__file__).with_name("out_of_distribution_requests.yaml")


def unread(named: Mapping[str, str], number: int) -> str | None:
    """What stands before the history where these facets are asked for, names by kind; None: nobody wrote how.

    `number` runs through the requests, and more slowly through the frames.
    """
    kinds = frozenset(named)
    if not kinds or not kinds <= {CATEGORY, DECADE}:
        return None
    requests = _written()["both" if len(kinds) == 2 else next(iter(kinds))]
    frames = _written()["frame"]
    request = requests[number % len(requests)]
    for kind, name in named.items():
        request = request.replace("{" + kind + "}", name)
    frame = frames[number // len(requests) % len(frames)]
    return frame.replace("{history}", "").replace("{intention}", request).strip()


@lru_cache(maxsize=1)
def _written() -> Mapping[str, Sequence[str]]:
    content: dict[str, list[str]] = yaml.safe_load(_FILE.read_text(encoding="utf8"))
    return content
