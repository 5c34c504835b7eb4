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

from jobs.cli import ConfigPath, DateOption, Overrides, PrintConfig, as_date, command, settings
from rayrec.pipeline.daily_run import check
from rayrec.pipeline.instruction_generation import OutputTable, generate_profiles, llm_teacher
from rayrec.pipeline.interaction_ingest import ingest
from rayrec.pipeline.run_context import RunContext
from rayrec.ray_support import cluster
from rayrec.reporting.terminal import results_console

Table = Annotated[str, typer.Option("--table", help="The parquet file to write, here or at an fsspec URL.")]
Reader = Annotated[
    str | None, typer.Option("--checkpoint", help="Folder of a Hugging Face instruct checkpoint; without it, by rules.")
]


def teach(
    config: ConfigPath,
    date: DateOption,
    table: Table,
    checkpoint: Reader = None,
    overrides: Overrides = None,
    print_config: PrintConfig = False,
) -> None:
    """Write what users like, in words."""
    work = RunContext(settings(config, overrides, print_config), as_date(date))
    check(work)
    target = OutputTable.at(table)
    teacher = llm_teacher(work, checkpoint) if checkpoint else None
    with cluster.connect(work.config.resources):
        users = ingest(work).users
        taught = generate_profiles(work, teacher)
    target.write(taught.table)
    console = results_console()
    console.print(f"{len(taught.table):,} of {users:,} users have a preference: {target}", soft_wrap=True)
    for reason, count in sorted(taught.counts.items()):
        console.print(f"{reason:<44} {count:>12,}", markup=False, highlight=False)


main = command(teach)

if __name__ == "__main__":
    main()
