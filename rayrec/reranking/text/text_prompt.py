"""The prompts of a way, put together from ids: our words by a template, the others' texts as words only.

<opening> examples, template with preference, history, intention | candidates, the way's last words <closing>
shared by all prompts of one user                                | all that differs
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product

from rayrec.errors import ConfigError
from rayrec.instructions.templates import OF_CANDIDATES, Template, Templates
from rayrec.reranking.text.instruct_checkpoint import Chat
from rayrec.reranking.text.text_scorer import FewShotExample, RankingQuery, TextScorerSettings
from rayrec.reranking.text.untrusted_text import SafeTokenizer, TokenIds

_EXAMPLE, _NEXT, _END = "Example. Somebody took, oldest first:", "\nand then:", "\n\n"
_BULLET = "\n-"
_LISTS = ("history", "candidates")  # fields that begin with a line break of their own
_OF_CANDIDATES = frozenset(field for fields in OF_CANDIDATES.values() for field in fields)
_CELLS = tuple(
    RankingQuery(intention, history, (), preference=preference)
    for preference, intention, history in product(("", "likes it"), ("", "wants it"), ((), ("it",)))
)

TemplateParts = tuple[tuple[TokenIds, str | None], ...]  # our words, and the field behind them; None: nothing more


def template_by_cell(templates: Templates, task_form: str) -> Callable[[RankingQuery], Template]:
    """The first template of an ask's cell: whether it tells a preference, has events, and asks for something.

    Raises ConfigError where a cell has none.
    """

    def template(ask: RankingQuery) -> Template:
        return templates.pick(
            preference="P2" if ask.preference else "P1" if ask.history else "P0",
            intention="I2" if ask.intention else "I0",
            task_form=task_form,
            history=bool(ask.history),
            key=0,
        )

    for cell in _CELLS:
        template(cell)
    return template


class PromptBuilder:
    """Of one way and checkpoint."""

    def __init__(
        self,
        chat: Chat,
        words: SafeTokenizer,
        settings: TextScorerSettings,
        template: Callable[[RankingQuery], Template],
        *,
        candidates: int,
        longest: int,
        ending: str = "",
    ) -> None:
        """`candidates`: tokens that the candidates' fields may take in a prompt, together; `longest`: of a prompt;
        `ending`: the way's own words behind the template. Raises ConfigError where it has no room for all."""
        self._chat, self._words, self._settings, self._template = chat, words, settings, template
        self._ending = words.own(ending)
        around = len(chat.opening) + len(chat.closing) + self._examples_room()
        self._room = longest - around - candidates  # for our words, what is asked, and the history
        self._split: dict[str, tuple[TemplateParts, TemplateParts]] = {}
        for cell in map(template, _CELLS):
            self._split[cell.id] = self._parts(cell)
            if self._room - self._ours(cell) < settings.instruction_tokens:
                raise ConfigError(
                    f"prompts of {longest} tokens are too short for what must stand in them",
                    where="rerank.settings",
                    hint="raise prompt_tokens, or lower instruction_tokens, item_tokens, window or examples",
                )

    def shared_prefix(self, ask: RankingQuery) -> tuple[TokenIds, TemplateParts]:
        """What all prompts of an ask share: opening, examples, what is asked (the intention before the preference,
        where not all has room) and the newest events that fit, oldest first. And what stands around its candidates."""
        most, of = self._settings.instruction_tokens, self._words.of
        ask = replace(ask, history=ask.history[max(0, len(ask.history) - self._settings.events) :])
        cell = self._template(ask)
        lead = {field: " " if words.endswith(" ") else "" for words, field in cell.parts}
        intention = of(ask.intention, most, lead["intention"]) if ask.intention else ()
        preference = of(ask.preference, most - len(intention), lead["preference"]) if ask.preference else ()
        if ask.preference and not preference:
            return self.shared_prefix(replace(ask, preference=""))
        shared, rest = self._split[cell.id]
        room = self._room - self._ours(cell) - len(intention) - len(preference)
        told = {"intention": intention, "preference": preference, "history": self._history(ask, room)}
        ids = [*self._chat.opening, *(token for example in ask.examples for token in self._example(example))]
        for words, field in shared:
            ids += words if field is None else (*words, *told[field])
        return tuple(ids), rest

    def prompt(self, beginning: tuple[TokenIds, TemplateParts], fields: Mapping[str, TokenIds]) -> list[int]:
        """One prompt of an ask; `fields`: the ids of its candidates' fields."""
        shared, rest = beginning
        ids = list(shared)
        for words, field in rest:
            ids += words if field is None else (*words, *fields[field])
        return [*ids, *self._chat.closing]

    def _parts(self, template: Template) -> tuple[TemplateParts, TemplateParts]:
        """Before the first field of candidates, and the rest, with our ending."""
        parts = [(self._own(words, field), field) for words, field in template.parts]
        first = next(at for at, (_, field) in enumerate(parts) if field in _OF_CANDIDATES)
        lead, field = parts[first]
        return (*parts[:first], (lead, None)), (((), field), *parts[first + 1 :], (self._ending, None))

    def _own(self, words: str, field: str | None) -> TokenIds:
        """Our words before a field, without the space or line break that it begins with itself."""
        return self._words.own(words.rstrip() if field in _LISTS else words if field is None else words.rstrip(" "))

    def _ours(self, template: Template) -> int:
        """Tokens of our words."""
        shared, rest = self._split[template.id]
        return sum(len(words) for words, _ in (*shared, *rest))

    def _history(self, ask: RankingQuery, room: int) -> TokenIds:
        bullet, newest = self._words.own(_BULLET), list[TokenIds]()
        for text in reversed(ask.history):
            line = bullet + self._words.of(text, self._settings.item_tokens)
            room -= len(line)
            if room < 0:
                break
            newest.append(line)
        return tuple(token for line in reversed(newest) for token in line)

    def _example(self, example: FewShotExample) -> Iterator[int]:
        own, most = self._words.own, self._settings.item_tokens
        yield from own(_EXAMPLE)
        for text in example.history[-self._settings.example_events :]:
            yield from (*own(_BULLET), *self._words.of(text, most))
        yield from (*own(_NEXT), *own(_BULLET), *self._words.of(example.consumed, most), *own(_END))

    def _examples_room(self) -> int:
        if self._settings.few_shot == "none":
            return 0
        line = len(self._words.own(_BULLET)) + self._settings.item_tokens
        around = sum(len(self._words.own(text)) for text in (_EXAMPLE, _NEXT, _END))
        return self._settings.examples * (around + (self._settings.example_events + 1) * line)
