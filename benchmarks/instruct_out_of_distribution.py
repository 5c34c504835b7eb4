"""Out-of-distribution paraphrases of requests: written without knowledge of the templates, phrases and stop words.

The held-out phrases have the same authors as those of tuning and were seen during development. A language model that
had seen nothing of this project wrote out_of_distribution_requests.yaml after the handling of requests was final. It is
the third such set: one choice was made with the figures of the second in view. After any change that is meant to
improve the figures on this set, it has to be written anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import yaml

from rayrec.instructions.facet_scheme import CATEGORY, DECADE

_FILE = Path(__file__).with_name("out_of_distribution_requests.yaml")


def out_of_distribution_request(named: Mapping[str, str], number: int) -> str | None:
    """The prompt before the history for a request of these facets, names by kind; None: there is no such request.

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
