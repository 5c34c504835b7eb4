"""Publish the users' embeddings of one date: a vector per user and instruction.

python -m jobs.embed --config conf/online_retail.yaml --set data.root=DIR --set output.root=OUT --date 2011-08-31

After any failure run it again: it resumes, and does nothing if the date is published. It shares the histories with
`jobs.daily`; neither job needs the other.
"""

from __future__ import annotations

from jobs.cli import ConfigPath, DateOption, Overrides, PrintConfig, as_date, command, print_counts, settings
from rayrec.embeddings.embedding_tables import EMBEDDINGS, INFLUENCES, NEIGHBOURS
from rayrec.monitoring.progress import format_epoch
from rayrec.pipeline import embedding_run
from rayrec.pipeline.embedding_training import settings_of
from rayrec.pipeline.run_context import RunContext
from rayrec.ray_support import cluster
from rayrec.reporting.terminal import results_console
from rayrec.storage.layout import publication_folder


def embed(config: ConfigPath, date: DateOption, overrides: Overrides = None, print_config: PrintConfig = False) -> None:
    """Publish the embeddings of one date."""
    context = RunContext(settings(config, overrides, print_config), as_date(date))
    settings_of(context)
    console = results_console()
    with cluster.connect(context.config.resources):
        result = embedding_run.run(context)
    where = context.storage.url(publication_folder(EMBEDDINGS.name, context.date))
    for product, derived in ((NEIGHBOURS, result.neighbours), (INFLUENCES, result.influences)):
        if derived is not None:
            folder = context.storage.url(publication_folder(product.name, context.date))
            console.print(f"{product.name}: {folder} ({derived.outcome})", soft_wrap=True)
    if result.already_published:
        console.print(f"{context.dt} is already published by this run; nothing was done: {where}", soft_wrap=True)
        return
    for row in result.card["curve"]:
        console.print(format_epoch(row))
    manifest = result.publication.manifest
    counts = [("users in", manifest.users.users_in), ("users published", manifest.users.published)]
    for arm in manifest.arms:
        counts.append((f"vectors: {arm}", sum(file.rows for file in manifest.files if file.arm == arm)))
    print_counts(console, counts)
    console.print(f"embeddings: {where} ({result.publication.outcome})", soft_wrap=True)


main = command(embed)

if __name__ == "__main__":
    main()
