"""Prompt templates with named fields, one cell for each combination of preference, intention and task form.

    preference  P0 nothing is known, P1 implicit (the user's events), P2 explicit (a sentence, with or without events)
    intention   I0 none, I1 vague, I2 specific
    task form   T0 pointwise, T1 pairwise, T2 matching, T3 reranking

The names are those of InstructRec (arXiv 2305.07001, section 3.1): its preference is the user profile text, its
intention the request. The wording, in templates/*.yaml, is our own. Template files and field values are untrusted:
rendering concatenates strings and never parses a value for fields.

The fields of candidates come last, so that the prompts of a user share a prefix. T2 has none and ends with the history,
which is given as item tokens.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Any

import yaml

from rayrec.config import yaml_loader
from rayrec.errors import ConfigError
from rayrec.numerics.hashing import digest
from rayrec.storage import Storage
from rayrec.storage_url import check_url

PREFERENCES = ("P0", "P1", "P2")
INTENTIONS = ("I0", "I1", "I2")
TASK_FORMS = ("T0", "T1", "T2", "T3")
SPLITS = ("train", "held_out")

_AXES = {"preference": PREFERENCES, "intention": INTENTIONS, "task_form": TASK_FORMS, "split": SPLITS}
OF_CANDIDATES = {"T0": ("item",), "T1": ("first", "second"), "T2": (), "T3": ("candidates",)}
_LETTER = {"first": "A", "second": "B"}
FIELDS = ("preference", "intention", "history", "item", "first", "second", "candidates")
_FIELD = re.compile(r"\{([^{}]*)\}")
_ID = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_MAX_CHARS = 2_000  # of a text
_MAX_BYTES = 1 << 20  # of a file
_SHIPPED = "templates"


@dataclass(frozen=True)
class Template:
    id: str
    preference: str
    intention: str
    task_form: str
    split: str  # "held_out": paraphrases excluded from tuning
    text: str

    @cached_property
    def parts(self) -> tuple[tuple[str, str | None], ...]:
        """The text as pairs of words and the field after them; the last pair has no field."""
        pieces = _FIELD.split(self.text)
        return tuple(zip(pieces[::2], [*pieces[1::2], None], strict=True))

    @property
    def fields(self) -> tuple[str, ...]:
        """The field names, in order."""
        return tuple(field for _, field in self.parts if field is not None)

    @property
    def has_history(self) -> bool:
        return "history" in self.fields


@dataclass(frozen=True)
class Templates:
    """The templates of a run, in file order."""

    templates: tuple[Template, ...]

    def __len__(self) -> int:
        return len(self.templates)

    def __iter__(self) -> Iterator[Template]:
        return iter(self.templates)

    @cached_property
    def digest(self) -> str:
        """Digest of ids, cells and texts: it changes whenever a prompt could."""
        return digest([[t.id, t.preference, t.intention, t.task_form, t.split, t.text] for t in self.templates])

    def of(
        self, *, preference: str, intention: str, task_form: str, split: str = "train", history: bool | None = None
    ) -> tuple[Template, ...]:
        """The templates of one cell; `history`: only those with (True) or without (False) the user's events."""
        return self._cells.get((preference, intention, task_form, split, history), ())

    def pick(
        self,
        *,
        preference: str,
        intention: str,
        task_form: str,
        key: int,
        split: str = "train",
        history: bool | None = None,
    ) -> Template:
        """The template of a cell that `key` (a hash or counter) selects. Raises ConfigError for an empty cell."""
        found = self.of(preference=preference, intention=intention, task_form=task_form, split=split, history=history)
        if not found:
            which = "" if history is None else ", with {history}" if history else ", without {history}"
            raise ConfigError(
                f"no template for {preference} {intention} {task_form}, split {split}{which}",
                where="instruction.templates",
                hint="add one to the file, or leave instruction.templates out to use those of rayrec",
            )
        return found[key % len(found)]

    @cached_property
    def _cells(self) -> dict[tuple[str, str, str, str, bool | None], tuple[Template, ...]]:
        cells: dict[tuple[str, str, str, str, bool | None], tuple[Template, ...]] = {}
        for each in self.templates:
            for history in (None, each.has_history):
                cell = (each.preference, each.intention, each.task_form, each.split, history)
                cells[cell] = (*cells.get(cell, ()), each)
        return cells


def load_templates(path: str | None = None) -> Templates:
    """Load the templates of `path` (a file or fsspec URL), or the built-in ones. Raises ConfigError."""
    templates: list[Template] = []
    ids: set[str] = set()
    for where, text in _shipped() if path is None else [(path, _read(path))]:
        for number, entry in enumerate(_entries(text, where), 1):
            template = _template(entry, where, number)
            if template.id in ids:
                raise _wrong("duplicate id", where, template.id)
            ids.add(template.id)
            templates.append(template)
    return Templates(tuple(templates))


def render(template: Template, fields: Mapping[str, str]) -> str:
    """The text with its fields filled in; other given fields are ignored. Raises KeyError for a missing field."""
    return "".join(words if field is None else words + fields[field] for words, field in template.parts)


@dataclass(frozen=True)
class InstructionRenderer:
    """Renders the instruction of an item-token prompt from a matching template (T2)."""

    templates: Templates
    split: str = "train"

    def __call__(self, profile: str, request: str, *, history: bool, vague: bool = False, key: int = 0) -> str:
        """The instruction from a profile text and a request ("": none), for a user with or without events.

        `vague`: the request is a mood. `key` selects one of the cell's templates.
        """
        template = self.templates.pick(
            preference="P2" if profile else "P1" if history else "P0",
            intention="I0" if not request else "I1" if vague else "I2",
            task_form="T2",
            split=self.split,
            history=history,
            key=key,
        )
        return render(template, {"preference": profile, "intention": request, "history": ""}).strip()


def _shipped() -> list[tuple[str, str]]:
    folder = resources.files(__package__) / _SHIPPED
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    return [(f"{_SHIPPED}/{file.name}", file.read_text(encoding="utf8")) for file in files]


def _read(path: str) -> str:
    check_url(path, "instruction.templates")
    folder, _, name = path.rpartition("/")
    storage = Storage(folder or ("/" if path.startswith("/") else "."))
    if (size := storage.info(name).size) > _MAX_BYTES:
        raise ConfigError(
            f"{size:,} bytes are too many for templates, allowed {_MAX_BYTES:,}",
            where=path,
            hint="give instruction.templates a shorter file",
        )
    try:
        return storage.read(name).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"the templates are not UTF-8: {error.reason}",
            where=path,
            hint="save the file of instruction.templates as UTF-8",
        ) from None


def _entries(text: str, where: str) -> list[Any]:
    try:
        entries = yaml_loader.load(text, where)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"not valid YAML: {error}",
            where=where,
            hint="correct that line of the file of instruction.templates; text with : # { [ goes into quotes",
        ) from None
    if not isinstance(entries, list) or not entries:
        raise ConfigError(
            "a file of templates is a list of them", where=where, hint="see rayrec/instructions/templates/matching.yaml"
        )
    return entries


def _template(entry: Any, where: str, number: int) -> Template:
    name = f"template {number}"
    if not isinstance(entry, dict):
        raise _wrong("a template is a mapping", where, name)
    given = entry.get("id")
    if not isinstance(given, str) or not _ID.fullmatch(given):
        raise _wrong("`id` is one to 64 of a-z, 0-9, '_', '-' and '.'", where, name)
    keys = {"id", "text", *_AXES}
    if unlike := keys.symmetric_difference(entry):
        some = sorted(map(str, unlike))[0][:60]
        raise _wrong(f"{'has no' if some in keys else 'has an unknown'} key {some!r}", where, given)
    for axis, values in _AXES.items():
        if entry[axis] not in values:
            shown = repr(entry[axis][:60]) if isinstance(entry[axis], str) else "not text"
            raise _wrong(f"`{axis}` is {shown}; it is one of {', '.join(values)}", where, given)
    if not isinstance(entry["text"], str):
        raise _wrong("`text` is not text", where, given)
    template = Template(**{**entry, "text": entry["text"].strip()})
    if problem := _problem(template):
        raise _wrong(problem, where, given)
    return template


def _problem(template: Template) -> str | None:
    """The problem with a template's text, or None."""
    words, fields = "".join(words for words, _ in template.parts), template.fields
    if not words.strip():
        return "the text has no words"
    if len(template.text) > _MAX_CHARS:
        return f"the text has {len(template.text):,} characters, allowed {_MAX_CHARS:,}"
    if hidden := [char for char in words if unicodedata.category(char).startswith("C") and char != "\n"]:
        return f"the text holds the invisible character U+{ord(hidden[0]):04X}"
    if "{" in words or "}" in words:
        return "the text holds a brace that belongs to no {field}"
    if unknown := [field for field in fields if field not in FIELDS]:
        return f"unknown field {{{unknown[0][:60]}}}; there is {', '.join(FIELDS)}"
    if repeated := [field for field in fields if fields.count(field) > 1]:
        return f"the field {{{repeated[0]}}} is there more than once"
    return _misplaced(template, fields)


def _misplaced(template: Template, fields: tuple[str, ...]) -> str | None:
    """The problem with the fields, or None: they must be those of the cell, with the candidates' fields last."""
    last = OF_CANDIDATES[template.task_form]
    needed = {
        "preference": template.preference == "P2",
        "history": template.preference == "P1",
        "intention": template.intention != "I0",
        **dict.fromkeys(last, True),
    }
    cell = f"{template.preference} {template.intention} {template.task_form}"
    if missing := [field for field, is_needed in needed.items() if is_needed and field not in fields]:
        return f"the field {{{missing[0]}}} is missing, which {cell} needs"
    allowed = {field for field, is_needed in needed.items() if is_needed}
    allowed |= {"history"} if template.preference == "P2" else set()
    if strange := [field for field in fields if field not in allowed]:
        return f"the field {{{strange[0]}}} has no place in {cell}"
    if fields[len(fields) - len(last) :] != last:
        return f"{{{'} {'.join(last)}}} must stand behind all other fields"
    if template.task_form == "T2" and template.has_history and not template.text.endswith("{history}"):
        return "{history} must end the text of T2"
    lead = {field: words for words, field in template.parts}
    if unlettered := [f for f, letter in _LETTER.items() if f in lead and not re.search(rf"\b{letter}\W*$", lead[f])]:
        return f"the letter {_LETTER[unlettered[0]]} must stand before {{{unlettered[0]}}}: by it the item is chosen"
    return None


def _wrong(what: str, where: str, name: str) -> ConfigError:
    return ConfigError(f"{name}: {what}", where=where, hint="see rayrec/instructions/templates/ for examples")
