"""The context of one run: config, date, inputs and fingerprints. Its files: see rayrec.storage.layout."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import cached_property

from rayrec.config import Config, Rerank
from rayrec.data import erasure_list
from rayrec.data.erasure_list import ErasureList
from rayrec.data.input_files import (
    InputFile,
    WindowFiles,
    auto_shards,
    instruction_files,
    item_files,
    list_window_files,
)
from rayrec.errors import ConfigError, DataError, MissingFileError, PublicationError
from rayrec.experiments.arm_plan import ArmPlan, plan_arms
from rayrec.instructions.facet_sentences import load_facet_sentences
from rayrec.instructions.templates import Templates, load_templates
from rayrec.numerics.hashing import digest, with_key_order
from rayrec.pipeline.feedback_inputs import FeedbackInputs, feedback_inputs
from rayrec.publishing.code_version import code_version
from rayrec.publishing.records import InputRecord, RunRecord
from rayrec.reranking.engines import engine_registry
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint
from rayrec.reranking.training.warm_start import Ancestor
from rayrec.storage import Storage, hf_checkpoint, layout
from rayrec.storage.checkpoint_source import changed, is_remote
from rayrec.text_encoding.sentence_encoder import SentenceEncoder


def microseconds(day: date) -> int:
    """Midnight UTC at the start of the day, microseconds since the epoch."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000


@dataclass(frozen=True, eq=False)
class RunContext:
    """Config and date of one run, with what follows from them. Picklable and hashable; lists input files on first use
    (with `data.shards: auto` at once).

    `given_erasure_list`: users to drop; None: the erasure list of output.root, read on first use. The list then stays
    fixed for the run, also in workers: erasure requests during the run apply to the next one.

    `code_version`: the driver's, also in workers. Output of other code versions is never reused, so a rerun after a bug
    fix recomputes everything.
    """

    config: Config
    date: date
    given_erasure_list: ErasureList | None = None
    code_version: str = field(default_factory=code_version)

    def __post_init__(self) -> None:
        """Put a number in place of `data.shards: auto`, from the window's files; the fingerprints have the number."""
        if self.config.data.shards == "auto":
            try:
                shards = auto_shards(list_window_files(self.config.data, self.date).files)
            except (ConfigError, DataError, MissingFileError):  # no data: whoever reads it says so
                return
            data = self.config.data.model_copy(update={"shards": shards})
            object.__setattr__(self, "config", self.config.model_copy(update={"data": data}))

    def __hash__(self) -> int:
        return hash(self._identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunContext) and self._identity == other._identity

    @cached_property
    def _identity(self) -> tuple[str, str, str, str, str | None]:
        """What equal contexts share; the key of a process's run cache."""
        try:
            data = self.data_fingerprint
        except (ConfigError, DataError, MissingFileError):  # no data, or deleted since
            data = None
        return self.config.model_dump_json(), self.dt, self.erasure_list.digest, self.code_version, data

    @cached_property
    def erasure_list(self) -> ErasureList:
        """Users whose events are dropped at ingest."""
        return erasure_list.read(self.storage) if self.given_erasure_list is None else self.given_erasure_list

    def require_same_erasure_list(self, otherwise: str = "nothing is published") -> None:
        """Raise PublicationError if the erasure list has grown since the run began: its rows would include erased
        users. To be called right before anything is published. `otherwise`: what the error says follows."""
        if erasure_list.read(self.storage).digest != self.erasure_list.digest:
            raise PublicationError(
                f"users were erased while the job ran; {otherwise}",
                where=self.storage.url(layout.ERASURE),
                hint="run the job again: it starts anew without them",
            )

    @property
    def dt(self) -> str:
        return self.date.isoformat()

    @property
    def cutoff(self) -> int:
        """Microseconds UTC: only events before this are known."""
        return microseconds(self.date)

    @property
    def event_weights(self) -> tuple[float, ...]:
        return tuple(self.config.data.events.values())

    @cached_property
    def storage(self) -> Storage:
        return Storage(self.config.output.root)

    @cached_property
    def arms(self) -> ArmPlan:
        """The variants of each stage, and the arms that share them."""
        return plan_arms(self.config)

    @cached_property
    def window_files(self) -> WindowFiles:
        return list_window_files(self.config.data, self.date)

    @property
    def interaction_files(self) -> tuple[InputFile, ...]:
        return self.window_files.files

    @cached_property
    def item_files(self) -> tuple[InputFile, ...]:
        return item_files(self.config.data)

    @cached_property
    def instruction_files(self) -> tuple[InputFile, ...]:
        return instruction_files(self.config.data)

    @cached_property
    def feedback_inputs(self) -> FeedbackInputs:
        """What the blender learns from feedback with; listed on the driver, then pickled with the context."""
        return feedback_inputs(self.config, self.storage, self.date)

    @cached_property
    def templates(self) -> Templates:
        """The wording of prompts; read on the driver, then pickled with the context."""
        return load_templates(self.config.instruction.templates)

    @cached_property
    def encoder(self) -> SentenceEncoder | None:
        """The sentence encoder of requests; None without one or without an instruction table. Raises ConfigError."""
        name = self.config.instruction.encoder
        return None if name is None or self.config.data.instructions is None else SentenceEncoder.open(name)

    @cached_property
    def facet_sentences_digest(self) -> str | None:
        """Digest of the user's own facet sentences; None without them. Raises ConfigError."""
        path = self.config.instruction.facet_sentences
        return None if path is None else load_facet_sentences(path, ()).digest

    @property
    def files(self) -> tuple[InputFile, ...]:
        """Every input file."""
        return (*self.interaction_files, *self.item_files, *self.instruction_files)

    @cached_property
    def data_fingerprint(self) -> str:
        """Fingerprint of the ingested rows: data settings, date, inputs (name, size, version), erasure list and code
        version. It is part of the fingerprint of everything derived from them.

        Histories refer to an event by its position in `data.events`, so the order of events counts.
        """
        content = self.config.data.model_dump(mode="json", exclude={"root", "max_quarantine_share", "split_bytes"})
        data = with_key_order(content, "events")
        files = [(file.path, file.size, file.version) for file in self.files]
        return digest(
            [data, self.dt, files, self.erasure_list.digest if self.erasure_list else None, self.code_version]
        )

    @property
    def work_folder(self) -> str:
        return layout.work_folder(self.date, self.data_fingerprint)

    @property
    def quarantine(self) -> str:
        return layout.quarantine_folder(self.date, self.data_fingerprint)

    @cached_property
    def record(self) -> RunRecord:
        """The run as a publishing record."""
        return RunRecord(
            date=self.date,
            fingerprint=self.config.fingerprint,
            fingerprinted_settings=self.config.fingerprinted_settings(),
            inputs=(*self.inputs, *self._template_inputs, *self._checkpoint_inputs, *self.feedback_inputs.records),
            shards=self.config.data.shard_count,
            arms=tuple(self.config.arms.variants),
            code_version=self.code_version,
        )

    @property
    def inputs(self) -> tuple[InputRecord, ...]:
        """Every input file, and the erasure list if there is one (size: number of users)."""
        listed = self.erasure_list
        known = (InputRecord(layout.ERASURE, len(listed), listed.digest),) if listed else ()
        return tuple(InputRecord(file.path, file.size, file.version) for file in self.files) + known

    @property
    def _template_inputs(self) -> tuple[InputRecord, ...]:
        """The user's own templates (size: their number) and facet sentences as inputs."""
        path = self.config.instruction.templates
        templates = (InputRecord(path, len(self.templates), self.templates.digest),) if path else ()
        sentences = self.config.instruction.facet_sentences
        return (*templates, *((InputRecord(sentences, 0, self.facet_sentences_digest or ""),) if sentences else ()))

    @cached_property
    def checkpoints(self) -> dict[str, tuple[str, str]]:
        """The checkpoint of each text-scoring rerank variant: what the config says, digest. Raises ConfigError if one
        is missing, or if its engine does not support it."""
        found = {}
        for variant in self.arms.variants("rerank"):
            rerank = variant.read(Rerank)
            if rerank.is_text_scorer:
                opened = InstructCheckpoint.open(str(rerank.checkpoint), rerank.adapter_folder)
                device = self.config.resources.engine_device
                engine_registry.check_quantization(rerank.engine, device, opened.quantization, str(rerank.checkpoint))
                if rerank.tunes_adapter:
                    hf_checkpoint.require_unquantized(opened.folder, f"rerank.checkpoint: {rerank.checkpoint}")
                found[variant.name] = str(rerank.checkpoint), opened.digest
        return found

    @cached_property
    def base(self) -> str | None:
        """Name and digest of the base checkpoint of the LLM; None without one. Raises ConfigError."""
        folder = self.config.tuning.base
        tunes = any(variant.read(Rerank).method == "item_token" for variant in self.arms.variants("rerank"))
        return hf_checkpoint.base_model_id(folder, "tuning.base") if tunes and folder != "scratch" else None

    @cached_property
    def ancestors(self) -> dict[int, Ancestor]:
        """The models that the tuning of the LLMs may start from, by cutoff; see rayrec.pipeline.llm_ancestors."""
        from rayrec.pipeline.llm_ancestors import find_ancestors  # it needs this module

        return find_ancestors(self)

    @property
    def checkpoint_sources(self) -> dict[str, str]:
        """Where the checkpoints of the config are, by source: the config key of each."""
        found = {}
        for rerank in (variant.read(Rerank) for variant in self.arms.variants("rerank")):
            if rerank.is_text_scorer:
                found[str(rerank.checkpoint)] = "rerank.checkpoint"
                found |= {rerank.adapter_folder: "rerank.adapter"} if rerank.adapter_folder else {}
            elif rerank.method == "item_token" and self.config.tuning.base != "scratch":
                found[self.config.tuning.base] = "tuning.base"
        if self.config.instruction.encoder is not None and self.config.data.instructions is not None:
            found[self.config.instruction.encoder] = "instruction.encoder"
        return found

    @property
    def _checkpoint_inputs(self) -> tuple[InputRecord, ...]:
        """These checkpoints, the base, the ancestors and the sentence encoder as inputs, without size."""
        more = {(self.config.tuning.base, self.base)} if self.base else set()
        more |= {(ancestor.path, ancestor.digest) for ancestor in self.ancestors.values()}
        if self.encoder is not None:
            more.add((f"instruction.encoder: {self.config.instruction.encoder}", self.encoder.digest))
        return tuple(InputRecord(folder, 0, digest) for folder, digest in sorted({*self.checkpoints.values(), *more}))


def open_checkpoint(context: RunContext, rerank: Rerank, tuned: str | None = None) -> InstructCheckpoint:
    """A text scorer's checkpoint on this node, with a `tuned` adapter's folder on top or the config's.

    Raises ConfigError if it is not the checkpoint that the run was planned with.
    """
    source, adapter = str(rerank.checkpoint), rerank.adapter_folder
    opened = InstructCheckpoint.open(source, tuned or adapter)
    if is_remote(source) or (adapter is not None and is_remote(adapter)):
        found = (opened if tuned is None else replace(opened, adapter=None)).digest
        planned = [digest for known, digest in context.checkpoints.values() if known == source]
        if found not in planned:
            raise changed(source, found, " or ".join(planned), "rerank.checkpoint")
    return opened
