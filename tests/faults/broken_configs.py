"""Invalid configs, each the small dataset's config with one fault, and the expected error text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from broken_inputs import Broken
from small_shop import good_config

from rayrec.errors import ConfigError, StorageError


def _config(name: str, change: Callable[[dict[str, Any]], object], *says: str, **others: Any) -> Broken:
    config = good_config()
    change(config)
    return Broken(name, config=config, error=others.pop("error", ConfigError), says=says, **others)


def _interactions(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda config: config["data"]["interactions"].update(changes)


def _data(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda config: config["data"].update(changes)


CONFIG_CASES: tuple[Broken, ...] = (
    _config("an_unknown_key", _data(shard=3), "data.shard: unknown key", "did you mean 'shards'"),
    _config("an_unknown_section", lambda config: config.update(dta={}), "dta: unknown key", "'data'"),
    _config("a_key_of_interactions_misspelt", _interactions(user="u"), "data.interactions.user: unknown key"),
    _config("a_pattern_that_is_none", _interactions(user_id={"column": "u", "extract": "(("}), "RE2"),
    _config("a_pattern_without_a_group", _interactions(user_id={"column": "u", "extract": r"\d+"}), "not one"),
    _config("a_pattern_with_two_groups", _interactions(day_pattern=r"(\d+)-(\d+)"), "2 groups"),
    _config("an_event_nobody_knows", _interactions(event={"default": "dance"}), "dance", "data.events"),
    _config(
        "a_rule_with_two_tests",
        _interactions(
            event={"default": "view", "rules": [{"column": "a", "event": "view", "equals": "", "matches": ""}]}
        ),
        "exactly one of",
    ),
    _config("a_reason_of_blanks", _interactions(require=[{"column": "a", "matches": "b", "reason": "A b"}]), "reason"),
    _config("an_unknown_encoding", _interactions(encoding="klingon"), "klingon"),
    _config("an_encoding_that_is_no_text", _interactions(encoding="base64"), "base64"),
    _config("no_delimiter", _interactions(delimiter=""), "delimiter"),
    _config("no_header_and_no_names", _interactions(header=False), "names"),
    _config("an_unknown_time_zone", _interactions(ts={"column": "ts", "timezone": "Mars/Phobos"}), "Mars/Phobos"),
    _config("a_time_format_that_cannot_be_read", _interactions(ts={"column": "ts", "format": "%Q"}), "%Q"),
    _config("a_time_with_unit_and_format", _interactions(ts={"column": "a", "unit": "s", "format": "%Y"}), "not both"),
    _config("a_weight_that_is_no_number", _data(events={"view": float("nan")}), "finite"),
    _config("no_events", _data(events={}), "between 1 and 127"),
    _config("a_window_of_no_days", _data(window_days=0), "window_days"),
    _config("two_catalogues", lambda config: config["data"]["items"].update(from_interactions=True), "not both"),
    _config("a_path_that_leaves_the_root", _interactions(path="../events"), "leaves the root", error=StorageError),
)
