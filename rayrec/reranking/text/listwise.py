"""The listwise reranker: candidates listed under letters; one forward pass gives the log-probability of every letter.

    <opening> a reranking template (T3): instruction, history | A. item  B. item  ...  The first one? <closing>
                                                              ->  log P(A), log P(B), ...

Because of position bias, candidates are listed in several orders: each shuffle forwards and backwards, which cancels a
bias that is linear in the position. A query ends once the order of its top is unchanged from one pair to the next.

More candidates than letters are split into windows, shuffled anew for each pair. A letter's log-probability then
depends on the other items of the window; the model log p = s_item + c_list, fitted by least squares over all lists,
removes that effect. With one window s is the plain mean.

Shuffles are seeded by the query's sorted texts: neither the batch nor the order of candidates changes a score, and
equal texts score alike. The text of a candidate can change the scores of others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from string import ascii_lowercase, ascii_uppercase

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from rayrec.instructions.safe_tokenizer import TokenIds
from rayrec.instructions.templates import Templates
from rayrec.numerics.hashing import derive_seed
from rayrec.reranking.engines.engine import Engine, Failure
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

_LETTERS = ascii_uppercase + ascii_lowercase
_ENDING = "\nAnswer with the letter of the first one only."
_EXACT = 1e-20  # relative squared residual at which the fit ends

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class ListwiseSettings(TextScorerSettings):
    window: int = Field(20, ge=2, le=len(_LETTERS))
    """Maximum number of candidates in one list, 2 to 52; the checkpoint needs a one-token letter for each."""
    permutations: int = Field(8, ge=1, le=128)
    """Maximum number of times each candidate is listed: 1, or even up to 128. Cost and stability grow with it."""
    stable_top: int = Field(10, ge=1)
    """Stop once the order of this many candidates is unchanged from one pair of lists to the next."""

    @field_validator("permutations")
    @classmethod
    def _one_or_even(cls, permutations: int) -> int:
        if permutations > 1 and permutations % 2:
            raise ValueError("give 1 or an even number: each shuffle is read forwards and backwards")
        return permutations


@TEXT_SCORERS.register
class ListwiseScorer(TextScorer):
    """Lists candidates under letters and scores all letters at once: few prompts."""

    name = "listwise"
    task_form = "T3"
    settings_class = ListwiseSettings

    def __init__(
        self, engine: Engine, checkpoint: InstructCheckpoint, settings: ListwiseSettings, templates: Templates
    ) -> None:
        self.engine, self._settings, self._tokenizer = engine, settings, checkpoint.tokenizer
        chat, own = checkpoint.chat(), checkpoint.tokenizer.encode_trusted
        self.ids = checkpoint.letter_ids(chat, _LETTERS, settings.window, f"rerank.settings ({self.name})")
        # Lines are built from token ids: some vocabularies would merge letter and dot, but the letter must be the same
        # token in the list and as an answer.
        self._lines = [(*own("\n"), letter, *own(".")) for letter in self.ids]
        self._prompts = PromptBuilder(
            chat,
            checkpoint.tokenizer,
            settings,
            template_by_cell(templates, self.task_form),
            candidate_tokens=sum(len(line) + settings.item_tokens for line in self._lines),
            max_tokens=engine.max_prompt_tokens,
            ending=_ENDING,
        )

    def neutral_score(self, candidates: int) -> float:
        return -math.log(max(candidates, 1))

    def prompt_rounds(self, query: RankingQuery) -> PromptRounds:
        """Log-probability that each candidate comes first, over the query's candidates."""
        texts = sorted(set(query.candidates))
        shared = self._prompts.shared_prefix(query)
        seed = derive_seed("label", query.profile, query.request, *query.history, "candidates", *texts)
        lists: list[Ints] = []
        log_probs: list[Doubles] = []
        scores, top = np.zeros(len(texts)), None
        for pair in range((self._settings.permutations + 1) // 2 if texts else 0):
            new = self._lists(len(texts), derive_seed(seed, pair))
            answers = yield [
                self._prompts.prompt(shared, {"candidates": self._listed([texts[place] for place in places])})
                for places in new
            ]
            for places, answer in zip(new, answers, strict=True):
                if isinstance(answer, Failure):
                    return answer
                log_probs.append(answer[: len(places)].astype(np.float64))
            lists += new
            scores, before = item_effects(lists, log_probs, len(texts)), top
            top = np.argsort(-scores, kind="stable")[: self._settings.stable_top].tolist()
            if top == before:
                break
        found = dict(zip(texts, scores - np.logaddexp.reduce(scores) if texts else scores, strict=True))
        return np.array([found[text] for text in query.candidates], np.float32)

    def tuning_prompts(
        self, query: RankingQuery, consumed: Sequence[bool], rng: np.random.Generator
    ) -> list[TuningPrompt]:
        """One list in a random order, of a consumed candidate and others up to a window; any consumed one is right."""
        order = rng.permutation(len(query.candidates))
        first = next(place for place in order.tolist() if consumed[place])
        others = [place for place in order.tolist() if place != first][: self._settings.window - 1]
        places = rng.permutation([first, *others]).tolist()
        shared = self._prompts.shared_prefix(query)
        prompt = self._prompts.prompt(shared, {"candidates": self._listed([query.candidates[p] for p in places])})
        return [TuningPrompt(prompt, tuple(letter for letter, place in enumerate(places) if consumed[place]))]

    def _listed(self, texts: Sequence[str]) -> TokenIds:
        """Texts one a line, each after its letter."""
        encode, most = self._tokenizer.encode_untrusted, self._settings.item_tokens
        return tuple(
            token for line, text in zip(self._lines, texts, strict=False) for token in (*line, *encode(text, most))
        )

    def _lists(self, count: int, seed: int) -> list[Ints]:
        """One pair: a shuffle of `count` texts in windows of about equal length, and each window reversed."""
        shuffled = np.random.default_rng(seed).permutation(count)
        windows = np.array_split(shuffled, -(-count // self._settings.window))
        return windows if self._settings.permutations == 1 else windows + [window[::-1] for window in windows]


def item_effects(lists: Sequence[Ints], log_probs: Sequence[Doubles], items: int) -> Doubles:
    """The item effects s of the least squares fit log p = s_item + c_list, float64 [items], up to a constant.

    `lists`: the items of each list; `log_probs`: their log-probabilities there. Every item is in some list. Groups of
    lists without common items are assumed to have equal means. The normal equations without c are solved by conjugate
    gradients with all sums in a fixed order: bit-identical for any number of threads.
    """
    item = np.concatenate(lists)
    place = np.repeat(np.arange(len(lists)), [len(places) for places in lists])
    per_list = np.bincount(place)

    def within_lists(value: Doubles) -> Doubles:
        """Values [entries] minus the mean of their list, summed by item."""
        return np.asarray(np.bincount(item, value - (np.bincount(place, value) / per_list)[place], items), np.float64)

    scores = np.zeros(items)
    left = within_lists(np.concatenate(log_probs))
    step, size = left, float(np.square(left).sum())
    enough = _EXACT * size
    for _ in range(items):
        if size <= enough:
            break
        change = within_lists(step[item])
        rate = size / float((step * change).sum())
        scores, left, before = scores + rate * step, left - rate * change, size
        size = float(np.square(left).sum())
        step = left + size / before * step
    return scores
