"""Write an instruction table: what each user's history says of them, by rules or by an LLM of yours.

python -m jobs.teach --config conf/movietweetings.yaml --set data.root=DIR --set output.root=OUT --date 2013-08-25 \\
    --table preferences.parquet [--checkpoint /models/some-instruct-model]

Point data.instructions at the table for the nights after. Look at it first: it is what the LLM will be told.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
import typer

from jobs.cli import ConfigPath, DayOption, Overrides, PrintConfig, command, day_of, settings
from rayrec import cluster
from rayrec.contracts.schemas import INSTRUCTION
from rayrec.evaluation.terminal import results_console
from rayrec.instructions.teachers.llm import LlmTeacher
from rayrec.pipeline.day import Day
from rayrec.pipeline.ingest import ingest
from rayrec.pipeline.teach import by_llm, by_rules, preferences

Table = Annotated[Path, typer.Option("--table", help="The parquet file to write.")]
Reader = Annotated[
    str | None, typer.Option("--checkpoint", help="Folder of a Hugging Face instruct checkpoint; without it, by rules.")
]


def teach(
    config: ConfigPath,
    date: DayOption,
    table: Table,
    checkpoint: Reader = None,
    overrides: Overrides = None,
    print_config: PrintConfig = False,
) -> None:
    """Write what users like, in words."""
    work = Day(settings(config, overrides, print_config), day_of(date))
    teacher = LlmTeacher(checkpoint, work.storage) if checkpoint else None
    with cluster.connect(work.config.resources):
        users = ingest(work).users
    tell = by_llm(work, teacher) if teacher else by_rules(work)
    written = pa.concat_tables([INSTRUCTION.empty_table(), *preferences(work, tell)])
    pq.write_table(written, table)
    console = results_console()
    console.print(f"{len(written):,} of {users:,} users have a preference: {table}", soft_wrap=True)
    for reason, count in sorted(teacher.counts.items()) if teacher else ():
        console.print(f"{reason:<44} {count:>12,}", markup=False, highlight=False)


main = command(teach)

if __name__ == "__main__":
    main()
