"""Patterns of published tokenizers pass; patterns that backtrack without end do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayrec.storage import regex_cost

PUBLISHED = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
    "o200k": r"[^\r\n\p{L}\p{N}]?"
    r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "deepseek": r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "digits in threes": r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))",
    "chinese": r"[\p{Han}]+",
    "possessive": r"[^\r\n\p{L}\p{N}]?+\p{L}++|\s++$",
    "braces": r"[{}]+|\{\{|\}\}|a{b}",
    "modules": r".*\.layers\.\d+\.(self_attn|mlp)\.(q_proj|v_proj)",
    "empty": "",
}
COSTLY = {
    "nested": r"(a+)+$",
    "nested, lazy": r"(?:a+?)*?b",
    "nested deeper": r"((a|b)*c?)*d",
    "nested, bounded outside": r"(\w+\s?){2,50}$",
    "nested, bounded inside": r"(a{1,100})+$",
    "named": r"(?<x>a+)+",
    "in a lookahead": r"(?=(a+)+b)",
    "after a setting": r"(?i)(A*)*",
    "with a class": r"([a-z[0-9]]+)*!",
    "polynomial": r"\s*\s*\s*\s*\s*x",
    "back-reference": r"(a*)\1",
    "named back-reference": r"(?<x>a*)\k<x>",
    "recursion": r"(a|b\g<0>)",
    "long": "a" * 5_000,
    "open": r"(a",
    "closed": r"a)",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_patterns_of_published_tokenizers_pass(name: str) -> None:
    assert regex_cost.problem(PUBLISHED[name]) is None


@pytest.mark.parametrize("name", COSTLY)
def test_costly_patterns_are_named(name: str) -> None:
    assert regex_cost.problem(COSTLY[name])


@given(st.text(r"ab()[]{}*+?|\^$,1:=!<>pk", max_size=40))
def test_any_text_is_read_to_its_end(pattern: str) -> None:
    assert regex_cost.problem(pattern) is None or isinstance(regex_cost.problem(pattern), str)
