"""Words that name nothing by themselves: stopwords.yaml, in lower case."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib import resources

import yaml

_TURNING = "turning"  # the group of those that turn a request round or set it a bound


def stop_words() -> frozenset[str]:
    """All of them."""
    return frozenset().union(*_groups().values())


def negation_and_bound_words() -> frozenset[str]:
    """Those that turn a request round or set it a bound: "not", "under"."""
    return _groups()[_TURNING]


@lru_cache(maxsize=1)
def _groups() -> Mapping[str, frozenset[str]]:
    text = resources.files(__package__).joinpath("stopwords.yaml").read_text(encoding="utf8")
    content: dict[str, str] = yaml.safe_load(text)
    return {group: frozenset(words.split()) for group, words in content.items()}
