"""Write user profile texts as an instruction table, by rules or by an LLM of yours.

python -m jobs.teach --config conf/movietweetings.yaml --set data.root=DIR --set output.root=OUT --date 2013-08-25 \\
    --table DIR/preferences.parquet [--checkpoint /models/some-instruct-model]

Later runs read the table with `data.instructions: {path: preferences.parquet}`, relative to data.root, so write it
there. Check it first: the LLM will be given these texts. The LLM of --checkpoint runs with the resources of a text
scorer: rerank_num_cpus, rerank_num_gpus, rerank_threads, vllm.
"""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.cli import ConfigPath, DateOption, Overrides, PrintConfig, as_date, command, print_counts, settings
from rayrec.pipeline.daily_run import check
from rayrec.pipeline.instruction_generation import OutputTable, generate_profiles, llm_teacher
from rayrec.pipeline.interaction_ingest import ingest
from rayrec.pipeline.run_context import RunContext
from rayrec.ray_support import cluster
from rayrec.reporting.terminal import results_console

Table = Annotated[str, typer.Option("--table", help="The parquet file to write, local or an fsspec URL.")]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        help="Instruct checkpoint: folder, URL or hf://organisation/name@commit; without it, rules write.",
    ),
]


def teach(
    config: ConfigPath,
    date: DateOption,
    table: Table,
    checkpoint: Checkpoint = None,
    overrides: Overrides = None,
    print_config: PrintConfig = False,
) -> None:
    """Write what users like as an instruction table."""
    context = RunContext(settings(config, overrides, print_config), as_date(date))
    check(context)
    target = OutputTable.at(table)
    teacher = llm_teacher(context, checkpoint) if checkpoint else None
    with cluster.connect(context.config.resources):
        users = ingest(context).users
        profiles = generate_profiles(context, teacher)
    context.require_same_erasure_list("no table is written")
    target.write(profiles.table)
    console = results_console()
    console.print(f"{len(profiles.table):,} of {users:,} users have a profile text: {target}", soft_wrap=True)
    print_counts(console, sorted(profiles.counts.items()))


main = command(teach)

if __name__ == "__main__":
    main()
