"""Write user profile texts as an instruction table, by rules or by an LLM of yours; or attributes of items.

python -m jobs.teach --config conf/movietweetings.yaml --set data.root=DIR --set output.root=OUT --date 2013-08-25 \\
    --table DIR/preferences.parquet [--checkpoint /models/some-instruct-model]

Later runs read the table with `data.instructions: {path: preferences.parquet}`, relative to data.root, so write it
there. Check it first: the LLM will be given these texts. The LLM of --checkpoint runs with the resources of a text
scorer: rerank_num_cpus, rerank_num_gpus, rerank_threads, vllm.

python -m jobs.teach --config conf/online_retail.yaml --set data.root=DIR --set output.root=OUT --date 2011-08-31 \\
    --table DIR/items.parquet --attributes schema.yaml

--attributes: the table is the catalogue instead, with the attributes of a schema of yours (material, occasion, ...)
that the titles name or that the sentence encoder finds in them. `data.items: {path: items.parquet, attributes: {…}}`
reads it: requests, ranges and content features know the attributes then.
"""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.cli import ConfigPath, DateOption, Overrides, PrintConfig, as_date, command, print_counts, settings
from rayrec.data.schemas import ITEM
from rayrec.instructions.attribute_extraction import load_attribute_schema
from rayrec.pipeline.daily_run import check
from rayrec.pipeline.instruction_generation import OutputTable, extract_attributes, generate_profiles, llm_teacher
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

Attributes = Annotated[
    str | None,
    typer.Option("--attributes", help="Schema of attributes (YAML); the table is the items with these attributes."),
]


def teach(
    config: ConfigPath,
    date: DateOption,
    table: Table,
    checkpoint: Checkpoint = None,
    attributes: Attributes = None,
    overrides: Overrides = None,
    print_config: PrintConfig = False,
) -> None:
    """Write what users like as an instruction table."""
    context = RunContext(settings(config, overrides, print_config), as_date(date))
    check(context)
    target = OutputTable.at(table)
    if attributes:
        _write_attributes(context, attributes, target)
        return
    teacher = llm_teacher(context, checkpoint) if checkpoint else None
    with cluster.connect(context.config.resources):
        users = ingest(context).users
        profiles = generate_profiles(context, teacher)
    context.require_same_erasure_list("no table is written")
    target.write(profiles.table)
    console = results_console()
    console.print(f"{len(profiles.table):,} of {users:,} users have a profile text: {target}", soft_wrap=True)
    print_counts(console, sorted(profiles.counts.items()))


def _write_attributes(context: RunContext, path: str, target: OutputTable) -> None:
    schema = load_attribute_schema(path)
    with cluster.connect(context.config.resources):
        ingest(context)
        table, counts = extract_attributes(context, schema)
    target.write(table)
    console = results_console()
    console.print(f"{len(table):,} items: {target}", soft_wrap=True)
    print_counts(console, [(f"items with {name}", count) for name, count in counts.items()])
    own = [name for name in table.column_names if name not in ITEM.names]
    mapped = f"attributes: {{{', '.join(f'{name}: {name}' for name in own)}}}" if own else ""
    filled = [name for name in table.column_names if name in ITEM.names and table[name].null_count < len(table)]
    known = [f"{name}: {name}" for name in filled]
    console.print(f"data.items: {{path: {target.name}, {', '.join([*known, mapped])}}}", soft_wrap=True)


main = command(teach)

if __name__ == "__main__":
    main()
