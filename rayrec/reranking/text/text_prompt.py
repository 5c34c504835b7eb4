"""Prompts of text scorers, built from token ids: trusted wording from a template, untrusted texts as plain words.

<opening> few-shot examples, template with profile, history, request | candidates, the scorer's ending <closing>
shared by all prompts of one user                                    | different for each prompt

Template fields have InstructRec's names (arXiv 2305.07001): {preference} is the user profile text, {intention} the
request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product

from rayrec.errors import ConfigError
from rayrec.instructions.safe_tokenizer import SafeTokenizer, TokenIds
from rayrec.instructions.templates import OF_CANDIDATES, Template, Templates
from rayrec.reranking.text.instruct_checkpoint import Chat
from rayrec.reranking.text.text_scorer import FewShotExample, RankingQuery, TextScorerSettings

_EXAMPLE, _NEXT, _END = "Example. Somebody took, oldest first:", "\nand then:", "\n\n"
_BULLET = "\n-"
_LISTS = ("history", "candidates")  # fields that begin with a line break
_OF_CANDIDATES = frozenset(field for fields in OF_CANDIDATES.values() for field in fields)
_CELLS = tuple(
    RankingQuery(request, history, (), profile=profile)
    for profile, request, history in product(("", "likes it"), ("", "wants it"), ((), ("it",)))
)

TemplateParts = tuple[tuple[TokenIds, str | None], ...]  # trusted words and the field after them; None: the end


def template_by_cell(templates: Templates, task_form: str) -> Callable[[RankingQuery], Template]:
    """Returns the first template of a query's cell: with or without a profile, a history and a request.

    Raises ConfigError if a cell has no template.
    """

    def template(query: RankingQuery) -> Template:
        return templates.pick(
            preference="P2" if query.profile else "P1" if query.history else "P0",
            intention="I2" if query.request else "I0",
            task_form=task_form,
            history=bool(query.history),
            key=0,
        )

    for cell in _CELLS:
        template(cell)
    return template


class PromptBuilder:
    """Builds the prompts of one scorer on one checkpoint."""

    def __init__(
        self,
        chat: Chat,
        tokenizer: SafeTokenizer,
        settings: TextScorerSettings,
        template: Callable[[RankingQuery], Template],
        *,
        candidate_tokens: int,
        max_tokens: int,
        ending: str = "",
    ) -> None:
        """`candidate_tokens`: most tokens of the candidates' fields together; `max_tokens`: of a whole prompt;
        `ending`: the scorer's wording after the template. Raises ConfigError if they do not fit."""
        self._chat, self._tokenizer, self._settings, self._template = chat, tokenizer, settings, template
        self._ending = tokenizer.encode_trusted(ending)
        around = len(chat.opening) + len(chat.closing) + self._example_tokens()
        self._space = max_tokens - around - candidate_tokens  # for template words, instruction and history
        self._split: dict[str, tuple[TemplateParts, TemplateParts]] = {}
        for cell in map(template, _CELLS):
            self._split[cell.id] = self._parts(cell)
            if self._space - self._template_tokens(cell) < settings.instruction_tokens:
                raise ConfigError(
                    f"prompts of {max_tokens} tokens are too short for what must stand in them",
                    where="rerank.settings",
                    hint="raise prompt_tokens, or lower instruction_tokens, item_tokens, window or examples",
                )

    def shared_prefix(self, query: RankingQuery) -> tuple[TokenIds, TemplateParts]:
        """The token prefix that all prompts of a query share, and the template parts around its candidates.

        The prefix has the opening, the examples, the request, as much of the profile as fits, and the newest events
        that fit, oldest first.
        """
        most, encode = self._settings.instruction_tokens, self._tokenizer.encode_untrusted
        query = replace(query, history=query.history[max(0, len(query.history) - self._settings.events) :])
        cell = self._template(query)
        lead = {field: " " if words.endswith(" ") else "" for words, field in cell.parts}
        request = encode(query.request, most, lead["intention"]) if query.request else ()
        profile = encode(query.profile, most - len(request), lead["preference"]) if query.profile else ()
        if query.profile and not profile:
            return self.shared_prefix(replace(query, profile=""))
        shared, rest = self._split[cell.id]
        space = self._space - self._template_tokens(cell) - len(request) - len(profile)
        fields = {"intention": request, "preference": profile, "history": self._history(query, space)}
        ids = [*self._chat.opening, *(token for example in query.examples for token in self._example(example))]
        for words, field in shared:
            ids += words if field is None else (*words, *fields[field])
        return tuple(ids), rest

    def prompt(self, shared_prefix: tuple[TokenIds, TemplateParts], fields: Mapping[str, TokenIds]) -> list[int]:
        """One prompt of a query; `fields`: token ids of its candidates' fields."""
        shared, rest = shared_prefix
        ids = list(shared)
        for words, field in rest:
            ids += words if field is None else (*words, *fields[field])
        return [*ids, *self._chat.closing]

    def _parts(self, template: Template) -> tuple[TemplateParts, TemplateParts]:
        """The parts before the first candidate field, and the rest with the scorer's ending."""
        parts = [(self._own(words, field), field) for words, field in template.parts]
        first = next(at for at, (_, field) in enumerate(parts) if field in _OF_CANDIDATES)
        lead, field = parts[first]
        return (*parts[:first], (lead, None)), (((), field), *parts[first + 1 :], (self._ending, None))

    def _own(self, words: str, field: str | None) -> TokenIds:
        """The words before a field, without the space or line break that the field begins with."""
        return self._tokenizer.encode_trusted(
            words.rstrip() if field in _LISTS else words if field is None else words.rstrip(" ")
        )

    def _template_tokens(self, template: Template) -> int:
        """Tokens of the template's words."""
        shared, rest = self._split[template.id]
        return sum(len(words) for words, _ in (*shared, *rest))

    def _history(self, query: RankingQuery, space: int) -> TokenIds:
        bullet, newest = self._tokenizer.encode_trusted(_BULLET), list[TokenIds]()
        for text in reversed(query.history):
            line = bullet + self._tokenizer.encode_untrusted(text, self._settings.item_tokens)
            space -= len(line)
            if space < 0:
                break
            newest.append(line)
        return tuple(token for line in reversed(newest) for token in line)

    def _example(self, example: FewShotExample) -> Iterator[int]:
        own, encode, most = self._tokenizer.encode_trusted, self._tokenizer.encode_untrusted, self._settings.item_tokens
        yield from own(_EXAMPLE)
        for text in example.history[-self._settings.example_events :]:
            yield from (*own(_BULLET), *encode(text, most))
        yield from (*own(_NEXT), *own(_BULLET), *encode(example.consumed, most), *own(_END))

    def _example_tokens(self) -> int:
        """Most tokens of all few-shot examples together."""
        if self._settings.few_shot == "none":
            return 0
        own = self._tokenizer.encode_trusted
        line = len(own(_BULLET)) + self._settings.item_tokens
        around = sum(len(own(text)) for text in (_EXAMPLE, _NEXT, _END))
        return self._settings.examples * (around + (self._settings.example_events + 1) * line)
