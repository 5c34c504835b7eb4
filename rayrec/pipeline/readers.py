"""The LLMs of a night as they are loaded in an actor: the one tuned here, and checkpoints that read text."""

from __future__ import annotations

from dataclasses import dataclass, field

from rayrec.config import Rerank
from rayrec.pipeline.day import Day
from rayrec.pipeline.models import Models, catalogue_of, instruction
from rayrec.reranking import engines
from rayrec.reranking.actor import Reranker, RerankSpec
from rayrec.reranking.artefact import localise
from rayrec.reranking.base import EngineSettings
from rayrec.reranking.text_actor import TextReranker
from rayrec.reranking.ways import engines as ways
from rayrec.reranking.ways.checkpoint import Checkpoint


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
            key = method.model_dump_json()
            if key not in self._texts:
                self._texts[key] = self._text(method)
            return self._texts[key]
        if self._tuned is None or self._tuned[0] != models:
            self._tuned = models, self._item_tokens(models)
        return self._tuned[1]

    def named(self, method: Rerank) -> str:
        """Engine and way, as the manifest counts them."""
        return f"{engines.engine_named(method.engine if method.reads_text else self.engine).name}: {method.method}"

    def _item_tokens(self, models: Models) -> Reranker:
        model = localise(self.day.storage, str(models.llm))
        started = engines.start(self.engine, model, self._settings(self.day.config.rerank))
        return Reranker(started, model, catalogue_of(self.day), RerankSpec(instruction(self.day), models.cut))

    def _text(self, method: Rerank) -> TextReranker:
        checkpoint = Checkpoint.open(str(method.checkpoint), method.adapter)
        way = ways.start(method.method, method.engine, checkpoint, self._settings(method), method.settings)
        catalogue = catalogue_of(self.day)
        pairs = zip(catalogue["title"].to_pylist(), catalogue["category"].to_pylist(), strict=True)
        texts = tuple(f"{title} ({category})" if category else title for title, category in pairs)
        return TextReranker(way, texts, instruction(self.day), method.depth)

    def _settings(self, method: Rerank) -> EngineSettings:
        resources = self.day.config.resources
        return EngineSettings(
            dtype=method.dtype,
            threads=resources.rerank_threads,
            device="cuda" if resources.rerank_num_gpus and resources.rerank_device == "auto" else "cpu",
            vllm=resources.vllm,
        )
