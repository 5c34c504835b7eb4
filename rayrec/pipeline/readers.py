"""The LLMs of a night as they are loaded in an actor: the one tuned here, and checkpoints that read text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from rayrec.config import Rerank
from rayrec.pipeline.day import Day
from rayrec.pipeline.demonstrations import demonstration_pool
from rayrec.pipeline.models import Models, catalogue_of, instruction, intention
from rayrec.reranking import engines
from rayrec.reranking.actor import Reranker, RerankSpec
from rayrec.reranking.artefact import localise
from rayrec.reranking.base import EngineSettings
from rayrec.reranking.text_actor import TextReranker
from rayrec.reranking.ways import engines as ways
from rayrec.reranking.ways.checkpoint import Checkpoint
from rayrec.reranking.ways.demonstrations import Demonstrator


@dataclass
class Readers:
    """`engine`: of the tuned LLM. A text reader stays for the job; the tuned LLM is another one for every cut."""

    day: Day
    engine: str
    _tuned: tuple[Models, Reranker] | None = None
    _texts: dict[str, TextReranker] = field(default_factory=dict)

    def at(self, models: Models, method: Rerank) -> Reranker | TextReranker:
        """Who scores by this method as of these models' cut; loaded when first asked for."""
        if method.reads_text:
            if method.reader not in self._texts:
                self._texts[method.reader] = self._text(method)
            return self._texts[method.reader]
        if self._tuned is None or self._tuned[0] != models:
            self._tuned = None
            engines.free()  # two of them would not fit where one does
            self._tuned = models, self._item_tokens(models)
        return self._tuned[1]

    def named(self, method: Rerank) -> str:
        """Engine and way, as the manifest counts them."""
        return f"{engines.engine_named(method.engine if method.reads_text else self.engine).name}: {method.method}"

    def _item_tokens(self, models: Models) -> Reranker:
        model, asked = localise(self.day.storage, str(models.llm)), instruction(self.day)
        settings = replace(self._settings(self.day.config.rerank), longest=model.longest_prompt(asked))
        started = engines.start(self.engine, model, settings)
        return Reranker(started, model, catalogue_of(self.day), RerankSpec(asked, models.cut))

    def _text(self, method: Rerank) -> TextReranker:
        checkpoint = Checkpoint.open(str(method.checkpoint), method.adapter)
        templates = self.day.templates
        way = ways.start(method.method, method.engine, checkpoint, self._settings(method), method.settings, templates)
        catalogue = catalogue_of(self.day)
        titles = tuple(catalogue["title"].to_pylist())
        texts = tuple(item_texts(catalogue, method.fields))
        words, settings = intention(self.day), ways.way_named(method.method).read(method.settings)
        shown = None
        if settings.demonstrations != "none":
            shown = Demonstrator.of(settings, demonstration_pool(self.day), way, texts, words)
        return TextReranker(way, texts, titles, words, method.depth, shown)

    def _settings(self, method: Rerank) -> EngineSettings:
        resources = self.day.config.resources
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
