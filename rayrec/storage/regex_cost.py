r"""Patterns whose matching can take exponential or high polynomial time.

Tokenizers and adapters bring patterns of their own, and their engines (Oniguruma, Python's re) backtrack. Nested
repetition such as `(a+)+` takes 2^n steps; every pattern of a published tokenizer does without.
"""

from __future__ import annotations

_LONGEST = 4_000  # characters
_MOST_OPEN = 3  # unbounded repetitions in one alternative; o200k's pattern has two and optional parts


def problem(pattern: str) -> str | None:
    """Why a pattern is too costly, for an error; None if it is fine."""
    if len(pattern) > _LONGEST:
        return f"has {len(pattern):,} characters, allowed {_LONGEST:,}"
    return _Scan(pattern).problem()


class _Group:
    """An open group: whether it has an unbounded repetition, and how many its alternatives have at most."""

    def __init__(self) -> None:
        self.now, self.most = 0, 0

    def alternative(self) -> None:
        self.most, self.now = max(self.most, self.now), 0


class _Scan:
    def __init__(self, pattern: str) -> None:
        self._pattern, self._at = pattern, 0
        self._groups = [_Group()]

    def problem(self) -> str | None:
        text = self._pattern
        closed: _Group | None = None  # the group that has just ended
        atom = False
        while self._at < len(text):
            char = text[self._at]
            self._at += 1
            if char == "\\":
                if text[self._at : self._at + 1].isdigit() and text[self._at] != "0":
                    return "has a back-reference"
                if text[self._at : self._at + 1] in ("k", "g"):
                    return "has a back-reference or calls itself"
                self._escape()
                atom, closed = True, None
            elif char == "[":
                self._set()
                atom, closed = True, None
            elif char == "(":
                self._open()
                atom, closed = False, None
            elif char == ")":
                if len(self._groups) == 1:
                    return "has a parenthesis too many"
                group = self._groups.pop()
                group.alternative()
                closed, atom = group, True
                self._groups[-1].now += group.most
            elif char == "|":
                self._groups[-1].alternative()
                atom, closed = False, None
            elif char in "*+?{" and atom:
                repeats, unbounded = self._quantifier(char)
                if closed is not None and closed.most and repeats:
                    return "repeats a part that repeats itself, such as (a+)+"
                self._groups[-1].now += unbounded
                closed = None
            else:
                atom, closed = True, None
            if max(group.now for group in self._groups) > _MOST_OPEN:
                return f"has more than {_MOST_OPEN} unbounded repetitions in a row"
        return None if len(self._groups) == 1 else "has an open parenthesis"

    def _escape(self) -> None:
        letter = self._pattern[self._at : self._at + 1]
        self._at += 1
        if letter in ("p", "P", "x", "u", "o", "N") and self._pattern[self._at : self._at + 1] == "{":
            end = self._pattern.find("}", self._at)
            self._at = len(self._pattern) if end < 0 else end + 1

    def _set(self) -> None:
        """Skip a character class; classes may be nested."""
        depth = 1
        if self._pattern[self._at : self._at + 1] == "^":
            self._at += 1
        if self._pattern[self._at : self._at + 1] == "]":
            self._at += 1
        while self._at < len(self._pattern) and depth:
            char = self._pattern[self._at]
            self._at += 1
            if char == "\\":
                self._escape()
            elif char == "[" and self._pattern[self._at : self._at + 1] == ":":
                end = self._pattern.find(":]", self._at)
                self._at = len(self._pattern) if end < 0 else end + 2
            elif char == "]":
                depth -= 1

    def _open(self) -> None:
        self._groups.append(_Group())
        rest = self._pattern[self._at :]
        if rest.startswith("?"):
            for ending in (":", "=", "!", ">", ")"):
                place = rest.find(ending)
                if 0 < place <= 24 and all(char.isalnum() or char in "?<_-^'" for char in rest[:place]):
                    if ending == ")":  # (?i): a setting, no group
                        self._groups.pop()
                    self._at += place + 1
                    return

    def _quantifier(self, char: str) -> tuple[bool, bool]:
        """Whether the quantifier that begins here repeats more than once, and whether without a bound."""
        least, most = {"*": (0, -1), "+": (1, -1), "?": (0, 1)}.get(char, (1, 1))
        if char == "{":
            end = self._pattern.find("}", self._at)
            inside = self._pattern[self._at : end] if end >= 0 else ""
            low, comma, high = inside.partition(",")
            if not (low + high).isdigit():
                return False, False  # a literal brace
            self._at = end + 1
            least = int(low or 0)
            most = (int(high) if high else -1) if comma else least
        if self._pattern[self._at : self._at + 1] in ("?", "+") and self._at < len(self._pattern):
            self._at += 1  # lazy or possessive
        # A bounded repetition of a variable length backtracks like an unbounded one if it is long.
        return most < 0 or most > 1, most < 0 or (most - least > 64)
