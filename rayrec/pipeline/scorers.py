"""The LLMs of a night as they are loaded in an actor: the one tuned here, and checkpoints that read text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from rayrec.config import Rerank
from rayrec.pipeline.few_shot_pool import few_shot_pool
from rayrec.pipeline.models import ModelSet, default_request, instruction, load_catalogue
from rayrec.pipeline.run_context import RunContext
from rayrec.reranking.engines import engine_registry
from rayrec.reranking.engines.engine import EngineSettings
from rayrec.reranking.item_token.item_token_ranker import ItemTokenRanker, ItemTokenSpec
from rayrec.reranking.item_token.tuned_checkpoint import fetch_checkpoint
from rayrec.reranking.text.few_shot import FewShotSelector
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint
from rayrec.reranking.text.text_reranker import TextReranker
from rayrec.reranking.text.text_scorer import start_text_scorer


@dataclass
class ScorerCache:
    """`engine`: of the tuned LLM. A text reader stays for the job; the tuned LLM is another one for every cut."""

    context: RunContext
    engine: str
    _tuned: tuple[ModelSet, ItemTokenRanker] | None = None
    _texts: dict[str, TextReranker] = field(default_factory=dict)

    def at(self, models: ModelSet, method: Rerank) -> ItemTokenRanker | TextReranker:
        """Who scores by this method as of these models' cut; loaded when first asked for."""
        if method.is_text_scorer:
            if method.scorer_key not in self._texts:
                self._texts[method.scorer_key] = self._text(method)
            return self._texts[method.scorer_key]
        if self._tuned is None or self._tuned[0] != models:
            self._tuned = None
            engine_registry.free_memory()  # two of them would not fit where one does
            self._tuned = models, self._item_tokens(models)
        return self._tuned[1]

    def engine_and_method(self, method: Rerank) -> str:
        """Engine and way, as the manifest counts them."""
        return f"{engine_registry.engine_class(method.engine if method.is_text_scorer else self.engine).name}: {method.method}"

    def _item_tokens(self, models: ModelSet) -> ItemTokenRanker:
        model, asked = fetch_checkpoint(self.context.storage, str(models.llm)), instruction(self.context)
        settings, longest = self._settings(self.context.config.rerank), model.longest_prompt(asked)
        started = engine_registry.start_engine(self.engine, model.model_files, "hidden_state", settings, longest)
        return ItemTokenRanker(started, model, load_catalogue(self.context), ItemTokenSpec(asked, models.cutoff))

    def _text(self, method: Rerank) -> TextReranker:
        checkpoint = InstructCheckpoint.open(str(method.checkpoint), method.adapter)
        templates = self.context.templates
        scorer = start_text_scorer(
            method.method, method.engine, checkpoint, self._settings(method), method.settings, templates
        )
        catalogue = load_catalogue(self.context)
        titles = tuple(catalogue["title"].to_pylist())
        texts = tuple(item_texts(catalogue, method.fields))
        words, settings = default_request(self.context), scorer.read(method.settings)
        shown = None
        if settings.few_shot != "none":
            shown = FewShotSelector.of(settings, few_shot_pool(self.context), scorer, texts, words)
        return TextReranker(scorer, texts, titles, words, method.depth, shown)

    def _settings(self, method: Rerank) -> EngineSettings:
        resources = self.context.config.resources
        return EngineSettings(
            dtype=method.dtype,
            threads=resources.rerank_threads,
            device="cuda" if resources.rerank_num_gpus and resources.rerank_device == "auto" else "cpu",
            vllm=resources.vllm,
        )


def item_texts(catalogue: pa.Table, fields: Sequence[str]) -> Iterator[str]:
    """What a checkpoint reads of each item, title first: `title (category): description`, by the `fields` it may."""
    nothing = [None] * catalogue.num_rows
    category, description = (
        catalogue[name].to_pylist() if name in fields else nothing for name in ("category", "description")
    )
    for title, kind, more in zip(catalogue["title"].to_pylist(), category, description, strict=True):
        yield title + (f" ({kind})" if kind else "") + (f": {more}" if more else "")
