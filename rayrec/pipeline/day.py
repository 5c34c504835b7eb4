"""What one night's work is: a config, a date, and where its files lie under `output.root`.

work/dt=D/<data fingerprint>/       exchange and histories: shared by all runs over the same inputs
models/<kind>/<fingerprint>/     item models, LLMs, blends
runs/dt=D/<run id>/                 record, receipts, verdicts on events (for `jobs.show`)
quarantine/dt=D/<data fingerprint>/ rows that broke the contract, with reasons
slates/dt=D/                        shard files, and the manifest that publishes them
reports/dt=D/                       report.html, metrics.json
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property

from rayrec import forgotten, local_llm
from rayrec.config import Config, Rerank
from rayrec.contracts.sources import InputFile, WindowFiles, files_of_window, instruction_files, item_files
from rayrec.errors import ConfigError, DataError, MissingFileError
from rayrec.forgotten import Forgotten
from rayrec.hashing import digest, ordered
from rayrec.instructions.templates import Templates, load_templates
from rayrec.publishing.records import Input, RunRecord
from rayrec.publishing.versions import code_version
from rayrec.reranking.ways.checkpoint import Checkpoint
from rayrec.slates.arms import ArmPlan, resolve
from rayrec.storage import Storage


def microseconds(day: date) -> int:
    """Midnight UTC at the start of the day, microseconds since the epoch."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000


@dataclass(frozen=True, eq=False)
class Day:
    """Everything the stages need to know of a run. Plain, picklable, hashable; files are listed when first asked.

    `listed`: who is forgotten; None: whoever is on the list of output.root when that is first asked. It then stays so,
    in the workers too: a request that comes during the night is for the next run.

    `code`: the version whose files these are. Nothing that other code made is taken up, so that a night run again after
    a fault was mended is without it from the first row on. The driver's own, in the workers too.
    """

    config: Config
    date: date
    listed: Forgotten | None = None
    code: str = field(default_factory=code_version)

    def __hash__(self) -> int:
        return hash(self._identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Day) and self._identity == other._identity

    @cached_property
    def _identity(self) -> tuple[str, str, str, str, str | None]:
        """What two days that are the same have in common: what a process keeps of a day, it keeps by this."""
        try:
            data = self.data_fingerprint
        except (ConfigError, DataError, MissingFileError):  # no data, or no longer
            data = None
        return self.config.model_dump_json(), self.dt, self.forgotten.digest, self.code, data

    @cached_property
    def forgotten(self) -> Forgotten:
        """Users whose events are dropped before anything is made of them."""
        return forgotten.read(self.storage) if self.listed is None else self.listed

    @property
    def dt(self) -> str:
        return self.date.isoformat()

    @property
    def cut(self) -> int:
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
        """Which variants of each stage there are, and which arms share them."""
        return resolve(self.config)

    @cached_property
    def window_files(self) -> WindowFiles:
        return files_of_window(self.config.data, self.date)

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
    def templates(self) -> Templates:
        """How requests are put into words. Asked on the driver first, it travels with the day."""
        return load_templates(self.config.instruction.templates)

    @property
    def files(self) -> tuple[InputFile, ...]:
        """Every input file."""
        return (*self.interaction_files, *self.item_files, *self.instruction_files)

    @cached_property
    def data_fingerprint(self) -> str:
        """Of the rows that go in: the data settings, the date, each input (name, size, version), who is left out; and
        of the code that reads them. It is part of the fingerprint of all that is made of them.

        Histories name an event by its place in `data.events`, so its order counts.
        """
        content = self.config.data.model_dump(mode="json", exclude={"root", "max_quarantine_share", "split_bytes"})
        data = ordered(content, "events")
        files = [(file.path, file.size, file.version) for file in self.files]
        return digest([data, self.dt, files, self.forgotten.digest if self.forgotten else None, self.code])

    @property
    def work(self) -> str:
        return f"work/dt={self.dt}/{self.data_fingerprint}"

    @property
    def quarantine(self) -> str:
        return f"quarantine/dt={self.dt}/{self.data_fingerprint}"

    @cached_property
    def record(self) -> RunRecord:
        """What publishing calls this run."""
        return RunRecord(
            date=self.date,
            fingerprint=self.config.fingerprint,
            meaning=self.config.meaning(),
            inputs=(*self.inputs, *self._worded, *self._read),
            shards=self.config.data.shards,
            arms=tuple(self.config.arms.variants),
            code_version=self.code,
        )

    @property
    def inputs(self) -> tuple[Input, ...]:
        """Every input file, and the list of forgotten users, where there is one: its size is their number."""
        listed = self.forgotten
        known = (Input(forgotten.FOLDER, len(listed), listed.digest),) if listed else ()
        return tuple(Input(file.path, file.size, file.version) for file in self.files) + known

    @property
    def _worded(self) -> tuple[Input, ...]:
        """Templates that are not rayrec's own, as an input: their size is their number."""
        path = self.config.instruction.templates
        return (Input(path, len(self.templates), self.templates.digest),) if path else ()

    @cached_property
    def checkpoints(self) -> dict[str, tuple[str, str]]:
        """The checkpoint that each rerank variant reads text with: folder, digest. Raises ConfigError for no such."""
        found = {}
        for variant in self.arms.variants("rerank"):
            rerank = variant.read(Rerank)
            if rerank.reads_text:
                opened = Checkpoint.open(str(rerank.checkpoint), rerank.adapter)
                found[variant.name] = str(rerank.checkpoint), opened.digest
        return found

    @cached_property
    def base(self) -> str | None:
        """Name and digest of the checkpoint that the LLM is tuned from; None: of no such. Raises ConfigError."""
        folder = self.config.tuning.base
        tunes = any(variant.read(Rerank).method == "item_token" for variant in self.arms.variants("rerank"))
        return local_llm.digest_of(folder, "tuning.base") if tunes and folder != "scratch" else None

    @property
    def _read(self) -> tuple[Input, ...]:
        """Those checkpoints and the base, as inputs: their size is not told."""
        base = {(self.config.tuning.base, self.base)} if self.base else set()
        return tuple(Input(folder, 0, digest) for folder, digest in sorted({*self.checkpoints.values(), *base}))
