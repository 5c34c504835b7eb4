"""label: candidates listed under one-token labels; one forward gives the log-probability of every label.

    <opening> a reranking template (T3): what is asked, history | A. item  B. item  ...  The first one? <closing>
                                                                ->  log P(A), log P(B), ...

Where a candidate stands changes its score (position bias), so lists are read in several orders: each shuffle forwards
and backwards, so that a bias that is linear in the position cancels within one pair. An ask is done once the order of
its top did not change from one pair to the next.

More candidates than labels are spread over windows, shuffled anew for each pair. A label's log-probability then depends
on who else is in the window; the model log p = s_item + c_list, fitted by least squares over all lists read, takes that
out. With one window s is the plain mean.

Shuffles come from the ask's own texts, sorted: neither the batch nor the order in which candidates are given changes a
score, and equal texts score the same. One candidate's text can change another's score in this way of scoring; in yes_no
it cannot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rayrec.config.method_settings import require
from rayrec.instructions.templates import Templates
from rayrec.numerics.hashing import derive_seed
from rayrec.reranking.engines.engine import Failure
from rayrec.reranking.engines.next_token import NextTokenEngine
from rayrec.reranking.text.answer_labels import LABELS, ChoiceLetters
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint
from rayrec.reranking.text.text_prompt import PromptBuilder, template_by_cell
from rayrec.reranking.text.text_scorer import PromptRounds, RankingQuery, TextScorer, TextScorerSettings, register
from rayrec.reranking.text.untrusted_text import TokenIds

_ENDING = "\nAnswer with the letter of the first one only."
_EXACT = 1e-20  # of the squared residual

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ListwiseSettings(TextScorerSettings):
    window: int = 20
    """Candidates in one list at most, 2 to 52; the checkpoint needs a letter of one token for each."""
    permutations: int = 8
    """Times that each candidate is listed at most: 1, or even up to 128. Price and steadiness rise with it."""
    stable_top: int = 10
    """Done once the order of so many did not change from one pair of lists to the next."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(2 <= self.window <= len(LABELS), f"window must be between 2 and {len(LABELS)}")
        require(self.permutations == 1 or self.permutations in range(2, 129, 2), "permutations must be 1 or even")
        require(self.stable_top >= 1, "stable_top must be at least 1")


@register
class ListwiseScorer(TextScorer):
    """Candidates listed under letters, and all letters scored at once: for few prompts."""

    name = "label"
    task_form = "T3"
    settings_class = ListwiseSettings

    def __init__(
        self, engine: NextTokenEngine, checkpoint: InstructCheckpoint, settings: ListwiseSettings, templates: Templates
    ) -> None:
        self.engine, self._settings, self._words = engine, settings, checkpoint.words
        chat = checkpoint.chat()
        self._labels = ChoiceLetters.of(checkpoint, chat, settings.window, self.where())
        self._prompts = PromptBuilder(
            chat,
            checkpoint.words,
            settings,
            template_by_cell(templates, self.task_form),
            candidates=sum(len(line) + settings.item_tokens for line in self._labels.lines),
            longest=engine.longest,
            ending=_ENDING,
        )
        self.ids = self._labels.ids

    def neutral_score(self, candidates: int) -> float:
        return -math.log(max(candidates, 1))

    def prompt_rounds(self, ask: RankingQuery) -> PromptRounds:
        """Log-probabilities over the ask's candidates, that each is the first choice."""
        texts = sorted(set(ask.candidates))
        beginning = self._prompts.shared_prefix(ask)
        seed = derive_seed("label", ask.preference, ask.intention, *ask.history, "candidates", *texts)
        lists: list[Ints] = []
        log_probs: list[Doubles] = []
        scores, top = np.zeros(len(texts)), None
        for pair in range((self._settings.permutations + 1) // 2 if texts else 0):
            new = self._lists(len(texts), derive_seed(seed, pair))
            answers = yield [
                self._prompts.prompt(beginning, {"candidates": self._listed([texts[place] for place in places])})
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
        return np.array([found[text] for text in ask.candidates], np.float32)

    def _listed(self, texts: Sequence[str]) -> TokenIds:
        return self._labels.listed([self._words.of(text, self._settings.item_tokens) for text in texts])

    def _lists(self, count: int, seed: int) -> list[Ints]:
        """One pair: a shuffle of `count` texts cut into windows of about the same length, and each read backwards."""
        shuffled = np.random.default_rng(seed).permutation(count)
        windows = np.array_split(shuffled, -(-count // self._settings.window))
        return windows if self._settings.permutations == 1 else windows + [window[::-1] for window in windows]


def item_effects(lists: Sequence[Ints], log_probs: Sequence[Doubles], items: int) -> Doubles:
    """s of the least squares fit log p = s_item + c_list, float64 [items], up to a constant.

    `lists`: the items of each list; `log_probs`: theirs there. Every item is in some list. Lists that share no item
    with the others leave the constant between them open: their means are then taken for equal. The normal equations
    without c are solved by conjugate gradients, all sums in a fixed order: the same bits on any number of threads.
    """
    item = np.concatenate(lists)
    place = np.repeat(np.arange(len(lists)), [len(places) for places in lists])
    per_list = np.bincount(place)

    def within_lists(value: Doubles) -> Doubles:
        """Values [entries] less their list's mean, summed by item."""
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
