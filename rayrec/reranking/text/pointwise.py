"""The pointwise reranker: one candidate a prompt, at its end; score = log P(yes) - log P(no).

    <opening> a pointwise template (T0): instruction, history | one item <closing>
    shared by all candidates                                  | different for each

A prompt holds the text of one candidate, so that no candidate can change the score of another. The shared part comes
first and does not depend on the item's length: the engine computes it once and serves it from the prefix cache.

`prompt: qwen3_reranker` is the prompt that the Qwen3-Reranker checkpoints were trained on (see their model card: a
system message with the judge's task, then <Instruct>, <Query>, <Document>, and "yes" or "no").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Self

import numpy as np
from pydantic import model_validator

from rayrec.errors import ConfigError
from rayrec.instructions.templates import Template, Templates
from rayrec.reranking.engines.engine import Engine, Failure, Float32
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint
from rayrec.reranking.text.text_prompt import PromptBuilder, template_by_cell
from rayrec.reranking.text.text_scorer import (
    TEXT_SCORERS,
    PromptRounds,
    RankingQuery,
    TextScorer,
    TextScorerSettings,
    TuningPrompt,
)

_ANSWERS = {"templates": (("Yes", "No"), ("yes", "no")), "qwen3_reranker": (("yes", "no"),)}  # spellings of yes and no
_JUDGE = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
_INSTRUCT = "<Instruct>: Given what a person asks for and what they took so far, find the items to recommend to them\n"
_QUERY, _TAKEN, _DOCUMENT = "<Query>: {intention}", "\nTaken so far, oldest first:{history}", "\n<Document>: {item}"
_ANYTHING = "what they will want next"


class PointwiseSettings(TextScorerSettings):
    prompt: Literal["templates", "qwen3_reranker"] = "templates"
    """`templates`, or `qwen3_reranker`: the prompt that the Qwen3-Reranker checkpoints were trained on."""

    @property
    def uses_templates(self) -> bool:
        return self.prompt == "templates"

    @model_validator(mode="after")
    def _examples_need_a_template(self) -> Self:
        if self.few_shot != "none" and not self.uses_templates:
            raise ValueError(f"the prompt {self.prompt} takes no few-shot examples: set few_shot to none")
        return self


@TEXT_SCORERS.register
class PointwiseScorer(TextScorer):
    """Scores one candidate a prompt by yes or no: the text of an item cannot change the score of another."""

    name = "pointwise"
    task_form = "T0"
    settings_class = PointwiseSettings
    asks_each_alone = True

    def __init__(
        self, engine: Engine, checkpoint: InstructCheckpoint, settings: PointwiseSettings, templates: Templates
    ) -> None:
        self._as_query = settings.prompt == "qwen3_reranker"
        chat = checkpoint.chat(_JUDGE if self._as_query else None)
        self.engine, self._tokenizer, self._item_tokens = engine, checkpoint.tokenizer, settings.item_tokens
        self._prompts = PromptBuilder(
            chat,
            checkpoint.tokenizer,
            settings,
            _query_template if self._as_query else template_by_cell(templates, self.task_form),
            candidate_tokens=settings.item_tokens,
            max_tokens=engine.max_prompt_tokens,
        )
        answers = _ANSWERS[settings.prompt]
        known = checkpoint.answer_ids(chat, [answer for pair in answers for answer in pair])
        pairs = [(known[yes], known[no]) for yes, no in answers if yes in known and no in known]
        if not pairs:
            raise ConfigError(
                "yes and no are not one token each where this checkpoint answers",
                where=f"rerank.checkpoint: {checkpoint.folder}",
                hint="choose another checkpoint for method pointwise",
            )
        self.ids = [*(yes for yes, _ in pairs), *(no for _, no in pairs)]

    def prompt_rounds(self, query: RankingQuery) -> PromptRounds:
        """Log-odds of yes. A candidate whose prompt fails scores NaN; the query is a Failure only if all fail."""
        answers = yield self._questions(query)
        return _log_odds(answers)

    def tuning_prompts(
        self, query: RankingQuery, consumed: Sequence[bool], rng: np.random.Generator
    ) -> list[TuningPrompt]:
        """Every candidate's question. Yes and no weigh as much in all, so that 0 stays neutral."""
        half, wanted = len(self.ids) // 2, sum(consumed)
        yes, no = tuple(range(half)), tuple(range(half, 2 * half))
        return [
            TuningPrompt(prompt, yes if right else no, 0.5 / (wanted if right else len(consumed) - wanted))
            for prompt, right in zip(self._questions(query), consumed, strict=True)
        ]

    def _questions(self, query: RankingQuery) -> list[list[int]]:
        """A prompt for each candidate."""
        if self._as_query:
            wanted = ". ".join(filter(None, (query.request, query.profile))) or _ANYTHING
            query = replace(query, request=wanted, profile="")
        shared = self._prompts.shared_prefix(query)
        return [
            self._prompts.prompt(shared, {"item": self._tokenizer.encode_untrusted(text, self._item_tokens)})
            for text in query.candidates
        ]


def _query_template(query: RankingQuery) -> Template:
    cell, history = ("P1", _TAKEN) if query.history else ("P0", "")
    text = f"{_INSTRUCT}{_QUERY}{history}{_DOCUMENT}"
    return Template(f"qwen3-reranker-{cell.lower()}", cell, "I2", "T0", "train", text)


def _log_odds(answers: Sequence[Float32 | Failure]) -> Float32 | Failure:
    """Log-odds from answers with the log-probabilities of the spellings of yes, then as many of no."""
    failures = [answer for answer in answers if isinstance(answer, Failure)]
    if failures and len(failures) == len(answers):
        return failures[0]
    out = np.full(len(answers), np.nan, np.float32)
    for place, answer in enumerate(answers):
        if not isinstance(answer, Failure):
            yes, no = np.split(answer, 2)
            out[place] = np.logaddexp.reduce(yes) - np.logaddexp.reduce(no)
    return out
