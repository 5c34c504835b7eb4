r"""The grammar of CSV (RFC 4180) as regular expressions over bytes.

A quoted field may hold delimiters, line breaks and doubled quotes; after its closing quote only white space may stand
before the next delimiter. A quote inside an unquoted field is a character like any other. With an escape character
(`\` in files of Spark, MySQL and Hive), the character after it stands for itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

_LINE_END = rb"(?:\r\n|\n|\r)"


@dataclass(frozen=True)
class Dialect:
    """How fields are written; one ASCII character each. `quote` None: quotes are ordinary characters.

    All patterns use possessive quantifiers: they never go back, so their time is linear in the text.
    """

    delimiter: str = ","
    quote: str | None = '"'
    escape: str | None = None

    @cached_property
    def legal(self) -> re.Pattern[bytes]:
        """As many whole records as possible."""
        record = self._record(self._field(self._unquoted), b"*+")
        # Lines up to the next quote or escape are records: this alternative passes over them at once.
        special = re.escape((self.quote or "") + (self.escape or "")).encode()
        plain = rb"[^%s]*[\r\n]" % special if special else rb"[\s\S]*[\r\n]"
        return re.compile(rb"(?:%s|%s)*+" % (plain, record))

    @cached_property
    def first_record(self) -> re.Pattern[bytes]:
        return re.compile(self._record(self._field(self._unquoted), b"*+"))

    def strict_record(self, fields: int) -> re.Pattern[bytes]:
        """A record of so many fields, no unquoted one of which holds a quote."""
        plain = self._plain(b"[^%s\r\n%s]" % (self._excluded, re.escape(self.quote or "").encode()))
        return re.compile(self._record(self._field(plain), b"{%d}+" % (fields - 1)))

    def leading_fields(self, most: int) -> re.Pattern[bytes]:
        """The leading fields of a record that are followed by a delimiter, at most so many."""
        return re.compile(rb"(?:%s%s){0,%d}+" % (self._field(self._unquoted), self._delimiter, most))

    @cached_property
    def escaped_null(self) -> re.Pattern[bytes]:
        r"""A whole field that is the escape character and N, which stands for null: `\N`."""
        end = rb"[%s\r\n]" % self._delimiter
        return re.compile(rb"(?:^|(?<=%s))%sN(?=%s)" % (end, re.escape(self.escape or "").encode(), end))

    @cached_property
    def unquoted_field(self) -> re.Pattern[bytes]:
        return re.compile(self._unquoted)

    @cached_property
    def open_field(self) -> re.Pattern[bytes]:
        """From an opening quote to its closing one, or to the end of the text."""
        return re.compile(rb"%s%s?+%s" % (self._body, re.escape(self.quote or "").encode(), self._space))

    @property
    def _delimiter(self) -> bytes:
        return re.escape(self.delimiter).encode()

    @property
    def _excluded(self) -> bytes:
        return self._delimiter + re.escape(self.escape or "").encode()

    @property
    def _escaped(self) -> bytes:
        return rb"|%s[\s\S]" % re.escape(self.escape).encode() if self.escape else b""

    @property
    def _space(self) -> bytes:
        return b" *+" if self.delimiter == "\t" else rb"[ \t]*+"

    @property
    def _body(self) -> bytes:
        quote, escape = re.escape(self.quote or "").encode(), re.escape(self.escape or "").encode()
        return rb"%s(?:[^%s%s]++|%s%s%s)*+" % (quote, quote, escape, quote, quote, self._escaped)

    @property
    def _unquoted(self) -> bytes:
        rest = self._plain(rb"[^%s\r\n]" % self._excluded)
        if self.quote is None:
            return rest
        first = rb"[^%s\r\n%s]%s" % (self._excluded, re.escape(self.quote).encode(), self._escaped)
        return rb"(?:(?:%s)%s)?+" % (first, rest)

    def _plain(self, allowed: bytes) -> bytes:
        return rb"(?:%s++%s)*+" % (allowed, self._escaped)

    def _field(self, unquoted: bytes) -> bytes:
        if self.quote is None:
            return unquoted
        quoted = rb"%s%s%s(?=[%s\r\n])" % (self._body, re.escape(self.quote).encode(), self._space, self._delimiter)
        return rb"(?:%s|(?!%s)%s)" % (quoted, re.escape(self.quote).encode(), unquoted)

    def _record(self, field: bytes, times: bytes) -> bytes:
        return rb"%s(?:%s%s)%s%s" % (field, self._delimiter, field, times, _LINE_END)
