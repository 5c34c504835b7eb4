"""The item-token LLM, tuned as in the daily job, and its scores of all items in this process."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.denoise_data import HeldOut
from benchmarks.instruct_requests import Int, Scores
from rayrec.config import Tuning
from rayrec.instructions.facets import Facets
from rayrec.instructions.templates import Templates
from rayrec.numerics.collectives import Worker
from rayrec.numerics.ragged import Ragged
from rayrec.reranking.engines.engine import EngineSettings
from rayrec.reranking.engines.transformers_runner import TransformersRunner
from rayrec.reranking.item_token import tuned_checkpoint
from rayrec.reranking.item_token.item_head import ItemHead
from rayrec.reranking.item_token.item_vocabulary import WordTokenizer
from rayrec.reranking.item_token.prompt_layout import PromptLayout
from rayrec.reranking.item_token.request_guidance import FacetMatchScore, guided_states, weighted_prompts
from rayrec.reranking.item_token.tuned_checkpoint import LocalCheckpoint
from rayrec.reranking.training.tuner import tune_on_worker
from rayrec.reranking.training.tuning_preparation import TuningSpec
from rayrec.storage import Storage


@dataclass(frozen=True)
class TunedLLM:
    """A tuned model and the histories that it scores."""

    folder: tempfile.TemporaryDirectory[str]  # the model's; deleted with this object
    local: LocalCheckpoint
    engine: TransformersRunner
    head: ItemHead
    layout: PromptLayout
    tokenizer: WordTokenizer
    item: Ragged  # token indices
    ts: Ragged
    user_cutoffs: Int
    codes: Int  # catalogue code of each token index
    items: int

    def scores(self, words: Sequence[str] | None, *, history: bool = True, guided: bool = True) -> Scores:
        """`words`: the prompt's text of each user of the case, by row; None: the layout's own instruction. `guided`: a
        request beside a history is put in more than one prompt, as in the daily job."""

        def scores(users: Int) -> npt.NDArray[np.float32]:
            item, ts = self.item.take(users), self.ts.take(users)
            if not history:
                item, ts = item.filter(np.zeros(len(item.values), bool)), ts.filter(np.zeros(len(ts.values), bool))
            instructions = None if words is None else self.tokenizer([words[user] for user in users])
            now = self.user_cutoffs[users]
            # One `now` a call: each user's own clock is moved onto it.
            latest = int(now.max())
            shifted = ts.like(ts.values + (latest - now)[ts.rows])
            parts = weighted_prompts(self.layout, item, shifted, latest, instructions, np.full(len(users), guided))
            out = np.full((len(users), self.items), -np.inf, np.float32)
            rows = [row for row, prompts in enumerate(parts) if prompts]
            states = guided_states(self.engine, [parts[row] for row in rows])
            everything = [np.arange(len(self.codes))] * len(rows)
            for row, found in zip(rows, self.head.log_probs(states, everything), strict=True):
                out[row, self.codes] = found
            return out

        return scores


def with_facet_bonus(scores: Scores, facets: Facets, requests: Sequence[str]) -> Scores:
    """Scores with the facet bonus, as in the daily job. `requests`: of each user of the case; "": none."""
    facet_score = FacetMatchScore(facets)

    def both(users: Int) -> npt.NDArray[np.float32]:
        found = scores(users)
        everything = np.arange(found.shape[1])
        named = facet_score.matches([requests[user] for user in users])
        return found + np.stack([facet_score.score_bonus(one, everything) for one in named])

    return both


def tune(
    case: HeldOut, settings: Tuning, factors: npt.NDArray[np.float32], templates: Templates, unseen: Int
) -> TunedLLM:
    """Tune on the case's histories, for all of `settings.epochs`, and load the engine."""
    folder = tempfile.TemporaryDirectory(prefix="instruct-")
    storage = Storage(folder.name)
    weight = np.asarray(case.event_weights, np.float32)
    item, ts = Ragged.from_arrow(case.history["item"]), Ragged.from_arrow(case.history["ts"])
    positive = weight[Ragged.from_arrow(case.history["event"]).values] > 0
    retained = item.filter(positive)
    table = pa.table(
        {
            "item": retained.to_arrow(pa.int32()),
            "ts": retained.like(ts.values[positive]).to_arrow(pa.int64()),
            "keep_weight": retained.like(np.ones(len(retained.values))).to_arrow(pa.float32()),
            "order": np.arange(len(retained), dtype=np.uint64),
        }
    )
    with storage.writer("sequences.arrow") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    spec = TuningSpec(
        root=storage.root,
        sequences=("sequences.arrow",),
        path="models/llm/one",
        catalogue=case.catalogue,
        instruction=case.config.instruction.default_request,
        settings=settings,
        now=int(case.user_cutoffs.max()) + 1,
        factors=factors,
        templates=templates,
        held_out_pairs=unseen,
    )

    def report(row: Mapping[str, float]) -> None:
        print("  " + ", ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)

    tune_on_worker(spec, Worker(), report)
    local = tuned_checkpoint.fetch_checkpoint(storage, spec.path)
    engine = TransformersRunner(local.model_files, "hidden_state", EngineSettings())
    index = local.token_index(case.catalogue["item_id"].combine_chunks()).fill_null(-1).to_numpy().astype(np.int64)
    known = index[retained.values] >= 0
    codes = np.empty(len(local.card.item_ids), np.int64)
    codes[index[index >= 0]] = np.flatnonzero(index >= 0)
    return TunedLLM(
        folder=folder,
        local=local,
        engine=engine,
        head=ItemHead.of(local),
        layout=local.layout(case.config.instruction.default_request, engine.max_prompt_tokens),
        tokenizer=local.word_tokenizer(engine.max_prompt_tokens),
        item=retained.filter(known).like(index[retained.values[known]]),
        ts=retained.filter(known).like(ts.values[positive][known]),
        user_cutoffs=case.user_cutoffs,
        codes=codes,
        items=case.items,
    )
