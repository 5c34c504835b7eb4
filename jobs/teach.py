"""Write an instruction table: what each user's history says of them, by rules or by an LLM of yours.

python -m jobs.teach --config conf/movietweetings.yaml --set data.root=DIR --set output.root=OUT --date 2013-08-25 \\
    --table DIR/preferences.parquet [--checkpoint /models/some-instruct-model]

The nights after find it with `data.instructions: {path: preferences.parquet}`, which is below data.root: so write it
there. Look at it first: it is what the LLM will be told. The LLM of --checkpoint reads where `resources` has a reader
of texts read: rerank_num_cpus, rerank_num_gpus, rerank_threads, vllm.
"""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.cli import ConfigPath, DayOption, Overrides, PrintConfig, command, day_of, settings
from rayrec import cluster
from rayrec.evaluation.terminal import results_console
from rayrec.instructions.teachers.llm import LlmTeacher
from rayrec.pipeline.daily import check
from rayrec.pipeline.day import Day
from rayrec.pipeline.ingest import ingest
from rayrec.pipeline.teach import Target, teach_users, writer_settings

Table = Annotated[str, typer.Option("--table", help="The parquet file to write, here or at an fsspec URL.")]
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
    check(work)
    target = Target.at(table)
    teacher = LlmTeacher(checkpoint, work.storage, writer_settings(work.config.resources)) if checkpoint else None
    with cluster.connect(work.config.resources):
        users = ingest(work).users
        taught = teach_users(work, teacher)
    target.write(taught.table)
    console = results_console()
    console.print(f"{len(taught.table):,} of {users:,} users have a preference: {target}", soft_wrap=True)
    for reason, count in sorted(taught.counts.items()):
        console.print(f"{reason:<44} {count:>12,}", markup=False, highlight=False)


main = command(teach)

if __name__ == "__main__":
    main()
