"""The LLM scorers of an actor: the item-token ranker tuned by this job, and text scorers on checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import pyarrow as pa

from rayrec.config import Rerank
from rayrec.data.cutoff_histories import histories_at
from rayrec.data.schemas import HISTORY
from rayrec.denoising.denoiser import histories_of
from rayrec.numerics.bottom_k_sample import BottomKSample
from rayrec.numerics.hashing import derive_seed, hash_strings, splitmix64
from rayrec.numerics.ragged import Ragged
from rayrec.pipeline.arm_settings import default_instruction, default_request
from rayrec.pipeline.gpu_shares import gpu_share
from rayrec.pipeline.interaction_ingest import histories, histories_path
from rayrec.pipeline.item_model_fitting import ModelSet, cutoffs
from rayrec.pipeline.run_context import RunContext, open_checkpoint
from rayrec.pipeline.worker_cache import worker_cache
from rayrec.reranking.engines import engine_registry
from rayrec.reranking.engines.engine import Engine, EngineSettings
from rayrec.reranking.item_token.item_token_ranker import ItemTokenRanker
from rayrec.reranking.item_token.tuned_checkpoint import fetch_checkpoint
from rayrec.reranking.text.answer_check import check_answers
from rayrec.reranking.text.few_shot import FewShotPool, FewShotSelector
from rayrec.reranking.text.text_reranker import TextReranker
from rayrec.reranking.text.text_scorer import TEXT_SCORERS, TextScorerSettings, start_engine
from rayrec.storage import published_folder

_USERS, _FEWEST = 200, 4  # few-shot pool: maximum number of users, minimum number of positive events
_SALT = np.uint64(derive_seed("demonstrations"))  # shards and samples use the unsalted hash


@dataclass
class ScorerCache:
    """Loaded scorers. Text scorers stay for the whole job, and share the engine of a checkpoint; the tuned LLM, on
    `engine`, changes with the cutoff."""

    context: RunContext
    engine: str
    _tuned: tuple[ModelSet, ItemTokenRanker] | None = None
    _texts: dict[str, TextReranker] = field(default_factory=dict)
    _engines: dict[tuple[object, ...], Engine] = field(default_factory=dict)  # of text scorers, by what they load

    def at(self, models: ModelSet, method: Rerank) -> ItemTokenRanker | TextReranker:
        """The scorer of this method as of these models' cutoff, loaded on first use."""
        if method.is_text_scorer:
            if method.scorer_key not in self._texts:
                self._texts[method.scorer_key] = self._text_reranker(models, method)
            return self._texts[method.scorer_key]
        if self._tuned is None or self._tuned[0] != models:
            self._tuned = None
            engine_registry.free_memory()  # two engines may not fit into memory together
            self._tuned = models, self._item_tokens(models)
        return self._tuned[1]

    def engine_and_method(self, method: Rerank) -> str:
        """The value of the column `scorer`, for the counts in the manifest."""
        choice = method.engine if method.is_text_scorer else self.engine
        engine = engine_registry.engine_class(choice, self.context.config.resources.engine_device)
        return f"{engine.name}: {method.method}"

    def _item_tokens(self, models: ModelSet) -> ItemTokenRanker:
        model, instruction = fetch_checkpoint(self.context.storage, str(models.llm)), default_instruction(self.context)
        settings, longest = self._settings(self.context.config.rerank), model.longest_prompt(instruction)
        kind = engine_registry.engine_class(self.engine, settings.device)
        engine = kind(model.model_files, "hidden_state", settings, longest)
        return ItemTokenRanker(engine, model, worker_cache(self.context).catalogue, instruction, models.cutoff)

    def _text_reranker(self, models: ModelSet, method: Rerank) -> TextReranker:
        tuned = None
        if method.tunes_adapter:
            tuned = str(published_folder.fetch(self.context.storage, dict(models.text_adapters)[method.scorer_key]))
        checkpoint = open_checkpoint(self.context, method, tuned)
        settings = method.settings
        assert isinstance(settings, TextScorerSettings)
        key = (method.engine, checkpoint, method.dtype, settings.prompt_tokens)
        if key not in self._engines:
            self._engines[key] = start_engine(method.engine, checkpoint, self._settings(method), settings.prompt_tokens)
        scorer = TEXT_SCORERS.lookup(method.method)(self._engines[key], checkpoint, settings, self.context.templates)
        catalogue = worker_cache(self.context).catalogue
        texts, titles = tuple(item_texts(catalogue, method.fields)), tuple(catalogue["title"].to_pylist())
        if tuned is None:  # the loss of a tuning compares the answers with each other alone
            check_answers(scorer, texts, f"rerank.checkpoint: {method.checkpoint}")
        request = default_request(self.context)
        selector = None
        if settings.few_shot != "none":
            selector = FewShotSelector.of(settings, few_shot_pool(self.context), scorer, texts, request)
        return TextReranker(scorer, texts, titles, request, method.depth, selector)

    def _settings(self, method: Rerank) -> EngineSettings:
        resources = self.context.config.resources
        device = resources.engine_device
        return EngineSettings(
            dtype=method.dtype,
            threads=resources.rerank_threads,
            device=device,
            gpu_share=gpu_share(self.context) if device == "cuda" else 1.0,
            vllm=resources.vllm,
        )


def item_texts(catalogue: pa.Table, fields: Sequence[str]) -> Iterator[str]:
    """The text of each item for text scorers: `title (category): description`, with the parts that `fields` names."""
    nothing = [None] * catalogue.num_rows
    category, description = (
        catalogue[name].to_pylist() if name in fields else nothing for name in ("category", "description")
    )
    for title, kind, more in zip(catalogue["title"].to_pylist(), category, description, strict=True):
        yield title + (f" ({kind})" if kind else "") + (f": {more}" if more else "")


def few_shot_pool(context: RunContext) -> FewShotPool:
    """Users whose histories may serve as few-shot examples, from all shards. The pool is the same for every cutoff and
    shard, because it uses only events before the oldest cutoff."""
    shards = [
        shard
        for shard in range(context.config.data.shard_count)
        if context.storage.exists(histories_path(context, shard))
    ]
    return few_shot_pool_of((histories(context, shard) for shard in shards), context.event_weights, cutoffs(context)[0])


def few_shot_pool_of(tables: Iterable[pa.Table], event_weights: Sequence[float], cutoff: int) -> FewShotPool:
    """The users of HISTORY tables with the smallest salted hashes: their positive events before the cutoff, the newest
    one as the consumed item."""
    chosen = BottomKSample(_USERS)
    for table in chain([HISTORY.empty_table()], tables):
        found = histories_of(histories_at(table, cutoff), event_weights)
        positive = found.item.filter(found.weight.values > 0)
        rows = np.flatnonzero(positive.lengths >= _FEWEST)
        users = table["user_id"].take(pa.array(rows))
        histories_of_users = pa.table({"user_id": users, "item": positive.take(rows).to_arrow(pa.int32())})
        chosen.add(histories_of_users, splitmix64(hash_strings(users) ^ _SALT))
    pool = chosen.table()
    items = Ragged.from_arrow(pool["item"])
    last = np.zeros(len(items.values), np.bool_)
    last[items.offsets[1:] - 1] = True
    return FewShotPool(tuple(pool["user_id"].to_pylist()), items.filter(~last), items.values[last])
