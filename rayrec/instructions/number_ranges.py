"""Ranges of years and prices in requests: "before 1970", "from the 60s to the 80s", "between £2 and £5", "5 or less".

A range is half open, [low, high); years are 1800 to 2199 without a currency, and decades: "90s", "nineties".
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

_TENS = ("twenties", "thirties", "forties", "fifties", "sixties", "seventies", "eighties", "nineties")
_DECADE_WORDS = {word: 1920 + 10 * number for number, word in enumerate(_TENS)} | {"noughties": 2000}
_UNITS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBER_WORDS = {word: number + 1.0 for number, word in enumerate(_UNITS)} | {
    "twelve": 12.0, "fifteen": 15.0, "twenty": 20.0, "thirty": 30.0, "forty": 40.0, "fifty": 50.0, "hundred": 100.0,
    "fiver": 5.0, "tenner": 10.0,
}  # fmt: skip
_CURRENCY = r"(?:pounds?|quid|euros?|dollars?|bucks|gbp|eur|usd|sterling)"
_ONE = {(article, unit) for article in ("a", "an") for unit in ("pound", "quid", "euro", "dollar", "buck")}
_PENCE = r"(?:p|pence|pennies|cents?)"
_SKIPPED = r"(?:(?:the|a|an|year|years|early|mid|late|end|of|start|about|around|roughly|than)\s)*"
_NUMBER = (
    rf"(?P<{{0}}>(?:(?:1[89]|2[01])\d0 ?s|\d0 ?s|{'|'.join(_DECADE_WORDS)}|(?P<sign{{0}}>[£$€] )?"
    rf"(?:\d+(?:\.\d+)?|{'|'.join(_NUMBER_WORDS)})(?P<unit{{0}}> ?{_CURRENCY}\b| ?{_PENCE}\b)?))(?![\w%])"
)
_UPPER = (
    r"(?:(?:no|not|nothing) (?:more|later|newer|dearer|over|above|after)(?: than)?|under|underneath|below|less than"
    r"|(?:cheaper|lower|smaller|older|earlier) than|up to|at most|at the most|max(?:imum)?(?: of)?|within|before|pre"
    r"|until|till|prior to|not exceeding|inside)"
)
_LOWER = (
    r"(?:(?:no|not|nothing) (?:less|earlier|older|cheaper|under|below|before)(?: than)?|over|above|more than|at least"
    r"|(?:dearer|pricier|higher|bigger|newer|later|younger|greater) than|upwards of|min(?:imum)?(?: of)?|after"
    r"|since|post|starting (?:at|from))"
)
_UPPER_AFTER = (
    r"(?:(?:or|and) (?:less|under|below|cheaper|lower|earlier|older|before)|max(?:imum)?\b|tops\b"
    r"|at (?:the )?most|limit\b)"
)
_LOWER_AFTER = (
    r"(?:(?:or|and) (?:more|over|above|up|upwards|dearer|later|newer|after|on|since)|plus\b|\+|onwards?\b"
    r"|at least|minimum\b)"
)
_BETWEEN = re.compile(
    rf"\b(?:between|from)\s{_SKIPPED}{_NUMBER.format('low')}\s(?:and|to|until|till|through|up to)\s{_SKIPPED}"
    rf"{_NUMBER.format('high')}"
)
_PAIR = re.compile(rf"(?<![\w.]){_NUMBER.format('low')}\s(?:to\s|-\s|–\s|and\s)?{_SKIPPED}{_NUMBER.format('high')}")
_BEFORE = re.compile(rf"\b(?:(?P<upper>{_UPPER})|(?P<lower>{_LOWER}))\s{_SKIPPED}{_NUMBER.format('value')}")
_AFTER = re.compile(
    rf"(?:\bfrom\s)?{_SKIPPED}(?<![\w.]){_NUMBER.format('value')}\s(?:(?P<upper>{_UPPER_AFTER})|(?P<lower>{_LOWER_AFTER}))"
)
_PRICE = re.compile(rf"\b(?P<upper>for|costs?|costing)\s{_SKIPPED}{_NUMBER.format('value')}")


@dataclass(frozen=True)
class NumberRange:
    """[low, high), and the words [start, end) that say it."""

    low: float
    high: float
    years: bool
    start: int
    end: int


def number_ranges(words: Sequence[str]) -> list[NumberRange]:
    """The ranges that words in lower case say, in order; they do not overlap."""
    words = ["one" if pair in _ONE else pair[0] for pair in pairwise([*words, ""])]
    text, starts = " ".join(words), [0, *accumulate(len(word) + 1 for word in words)][: len(words)]
    found = list[NumberRange]()
    for pattern in (_BETWEEN, _BEFORE, _AFTER, _PAIR, _PRICE):
        for match in pattern.finditer(text):
            first, last = bisect_right(starts, match.start()) - 1, bisect_right(starts, match.end() - 1)
            if any(one.start < last and first < one.end for one in found):
                continue
            one = _range(match, first, last, priced=pattern is _PRICE, pair=pattern is _PAIR)
            if one is not None:
                found.append(one)
    return sorted(found, key=lambda one: one.start)


def _range(match: re.Match[str], start: int, end: int, *, priced: bool, pair: bool) -> NumberRange | None:
    groups = match.groupdict()
    if "value" in groups:
        (low, high, years), money = _span(match, "value"), _is_money(match, "value")
        if (priced and (years or not money)) or (match["value"] in _NUMBER_WORDS and not money):
            return None
        if groups["upper"]:
            said = groups["upper"]
            until = high if years and said.startswith(("until", "till", "up", "no", "within", "or", "and")) else low
            return NumberRange(-math.inf, until if years else low, years, start, end)
        said = groups["lower"] or ""
        after = (
            low if years and said.startswith(("since", "or", "and", "no", "at", "onward", "plus", "starting")) else high
        )
        return NumberRange(after if years else low, math.inf, years, start, end)
    (low, _, years), (last, until, also_years) = _span(match, "low"), _span(match, "high")
    if years != also_years and not (years and last < 100):
        return None
    if pair and not years and not (_is_money(match, "low") or _is_money(match, "high")):
        return None
    if pair and years and " and " in match[0]:
        return None  # "the 60s and 70s" names two
    high = until if years else last
    return NumberRange(low, high, years, start, end) if low < high else None


def _is_money(match: re.Match[str], name: str) -> bool:
    return bool(match[f"sign{name}"] or match[f"unit{name}"] or match[name] in ("fiver", "tenner"))


def _span(match: re.Match[str], name: str) -> tuple[float, float, bool]:
    """[low, high) of a number, and whether it is a year or a decade."""
    text = match[name]
    if text in _DECADE_WORDS:
        return float(_DECADE_WORDS[text]), _DECADE_WORDS[text] + 10.0, True
    if text.endswith("s") and (digits := re.sub(r"\D", "", text)) and not match[f"unit{name}"]:
        year = int(digits) + (0 if len(digits) == 4 else 2000 if int(digits) < 20 else 1900)
        return float(year), year + 10.0, True
    bare = re.sub(rf"[£$€ ]|{_CURRENCY}|{_PENCE}\b", "", text) if text not in _NUMBER_WORDS else text
    number = _NUMBER_WORDS[bare] if bare in _NUMBER_WORDS else float(bare)
    if not _is_money(match, name) and number == int(number) and 1800 <= number < 2200:
        return number, number + 1.0, True
    if (match[f"unit{name}"] or "").strip() in ("p", "pence", "pennies", "cent", "cents"):
        number /= 100
    return number, number, False
