"""The item-token LLM of the daily job, tuned and evaluated in this process.

Every condition takes the same number of optimisation steps from the same start. There is no early stopping, so that
conditions differ only in their histories. The items with a token are those with enough events in the noisy histories,
in every condition.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import safetensors.torch
import torch

from benchmarks.denoise_rank import RetainedEvents, Scores
from rayrec.config import Tuning
from rayrec.numerics.collectives import Worker
from rayrec.numerics.hashing import derive_seed
from rayrec.numerics.ragged import Ragged
from rayrec.reranking.item_token import item_lm, item_vocabulary
from rayrec.reranking.item_token.item_lm import ItemLM
from rayrec.reranking.item_token.prompt_layout import PromptLayout
from rayrec.reranking.training.tuning_examples import Sequences, batches, epoch_examples
from rayrec.reranking.training.tuning_loop import TuningLoop, TuningTask

_BATCH_TOKENS = 8192  # of scoring

Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PromptEncoder:
    """How histories become prompts, the same for all conditions of a case."""

    layout: PromptLayout
    codes: Int  # catalogue codes of the items that have a token, ascending
    items: int  # of the catalogue
    settings: Tuning
    user_cutoffs: Int  # [users] the cutoff of each, microseconds UTC

    @classmethod
    def of(
        cls, catalogue: pa.Table, counts: Int, instruction: str, settings: Tuning, user_cutoffs: Int
    ) -> PromptEncoder:
        """`counts` [items]: events that decide which items get a token."""
        codes = np.flatnonzero(counts >= settings.min_item_events)
        tokenizer = item_vocabulary.scratch_tokenizer([instruction], catalogue["title"].to_pylist(), len(codes))
        known = item_vocabulary.vocabulary_from_tokenizer(tokenizer, len(codes))
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            word_tokenizer = item_vocabulary.WordTokenizer(Path(folder) / "tokenizer.json", known)
            words = tuple(word_tokenizer([instruction]).values.tolist())
        layout = PromptLayout(known, words, settings.events, len(words) + 2 + 2 * settings.events)
        return cls(layout, codes, len(catalogue), settings, user_cutoffs)

    @property
    def index(self) -> Int:
        """Catalogue code -> place among the item tokens, or -1."""
        index = np.full(self.items, -1)
        index[self.codes] = np.arange(len(self.codes))
        return index

    def blank(self) -> ItemLM:
        return item_lm.build(self.settings, self.layout.vocabulary, self.layout.tokens)

    def prompts(self, retained: RetainedEvents) -> Ragged:
        """Token ids int64, one row a user, as of each user's cutoff; empty where no event has a token."""
        code = self.index[retained.item.values]
        item, ts = retained.item.like(code).filter(code >= 0), retained.ts.filter(code >= 0)
        rows = (
            self.layout.prompts(
                Ragged.from_lengths(item[u], [len(item[u])]), Ragged.from_lengths(ts[u], [len(ts[u])]), int(now)
            ).values
            for u, now in enumerate(self.user_cutoffs)
        )
        parts = list(rows)
        return Ragged.from_lengths(np.concatenate(parts), [len(part) for part in parts])


class FixedSteps(TuningLoop):
    """The daily job's loop, stopped after so many steps instead of epochs."""

    def take_steps(self, steps: int) -> None:
        settings, number = self._task.settings, 0
        self.progress.steps = steps  # the learning rate's plan
        self.model.train()
        while self.progress.step < steps:
            rng = np.random.default_rng(derive_seed("epoch", settings.seed, number))
            examples = epoch_examples(self._task.events, self._layout, settings, self._task.now, rng)
            plan = batches(examples, settings.batch_tokens, rng)
            scale = len(plan) / float(examples.weight.values.sum())
            for rows in plan[: steps - self.progress.step]:
                self._step(examples, rows, scale)
            number += 1


def tuned(encoder: PromptEncoder, retained: RetainedEvents, factors: npt.NDArray[np.float32], steps: int) -> ItemLM:
    """A model tuned on the retained events. `factors` [items, k]: where item vectors start."""
    now = int(encoder.user_cutoffs.max()) + 1
    table = pa.table(
        {
            "item": retained.item.to_arrow(pa.int32()),
            "ts": retained.ts.to_arrow(pa.int64()),
            "keep_weight": retained.keep_weight.to_arrow(pa.float32()),
        }
    )
    lm = encoder.blank()
    lm.init_item_vectors(lm.project_factors(factors[encoder.codes]))
    torch.manual_seed(derive_seed("dropout", encoder.settings.seed))
    events = Sequences.from_tables([table], encoder.index, now)
    FixedSteps(lm, encoder.layout, TuningTask(events, None, now, encoder.settings), Worker()).take_steps(steps)
    return lm.eval()


def scores_of(encoder: PromptEncoder, lm: ItemLM, retained: RetainedEvents) -> Scores:
    """[users, items]: the logits of the items with a token, -inf elsewhere and for users without a prompt."""
    prompts = encoder.prompts(retained)

    def scores(users: Int) -> npt.NDArray[np.float32]:
        own = prompts.take(users)
        out = np.full((len(users), encoder.items), -np.inf, np.float32)
        order = np.argsort(-own.lengths, kind="stable")
        order = order[own.lengths[order] > 0]
        start = 0
        while start < len(order):
            longest = int(own.lengths[order[start]])
            rows = order[start : start + max(1, _BATCH_TOKENS // longest)]
            tokens = np.full((len(rows), longest), encoder.layout.vocabulary.pad)
            tokens[np.arange(longest) < own.lengths[rows, None]] = own.take(rows).values
            with torch.inference_mode():
                states = lm(torch.from_numpy(tokens))[torch.arange(len(rows)), torch.from_numpy(own.lengths[rows] - 1)]
                logits = (states.float() @ lm.items.float().T).numpy()
            out[np.ix_(rows, encoder.codes)] = logits
            start += len(rows)
        return out

    return scores


def save(lm: ItemLM, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file({name: p.detach().contiguous() for name, p in lm.trainable_parameters().items()}, path)


def load(encoder: PromptEncoder, path: Path) -> ItemLM:
    lm = encoder.blank()
    tensors = safetensors.torch.load_file(path)
    with torch.no_grad():
        for name, parameter in lm.trainable_parameters().items():
            parameter.copy_(tensors[name])
    return lm.eval()
