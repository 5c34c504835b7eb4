"""The users' embeddings of a date: one vector a user and instruction, published like slates.

python -m jobs.embed --config conf/online_retail.yaml --set data.root=DIR --set output.root=OUT --date 2011-08-31

Run it again after any failure: it goes on where it stopped, and does nothing where the day is published. It shares the
histories with `jobs.daily`, and nothing else: neither needs the other.
"""

from __future__ import annotations

from jobs.cli import ConfigPath, DateOption, Overrides, PrintConfig, as_date, command, settings
from rayrec.embeddings.embedding_tables import EMBEDDINGS, INFLUENCES, NEIGHBOURS
from rayrec.pipeline import embedding_run as pipeline
from rayrec.pipeline.embedding_training import settings_of
from rayrec.pipeline.run_context import RunContext
from rayrec.ray_support import cluster
from rayrec.reporting.terminal import results_console
from rayrec.storage.layout import publication_folder


def embed(config: ConfigPath, date: DateOption, overrides: Overrides = None, print_config: PrintConfig = False) -> None:
    """Publish one date's embeddings."""
    work = RunContext(settings(config, overrides, print_config), as_date(date))
    settings_of(work)
    console = results_console()
    with cluster.connect(work.config.resources):
        embedded = pipeline.run(work)
    where = work.storage.url(publication_folder(EMBEDDINGS.name, work.date))
    for product, beside in ((NEIGHBOURS, embedded.neighbours), (INFLUENCES, embedded.influences)):
        if beside is not None:
            folder = work.storage.url(publication_folder(product.name, work.date))
            console.print(f"{product.name}: {folder} ({beside.outcome})", soft_wrap=True)
    if embedded.already_published:
        console.print(f"{work.dt} is already published, by this very run; nothing was done: {where}", soft_wrap=True)
        return
    for row in embedded.card["curve"]:
        judged = f"  validation {row['validation']:.4f}" if "validation" in row else ""
        console.print(f"epoch {row['epoch']:.0f}  loss {row['loss']:.4f}{judged}")
    manifest = embedded.publication.manifest
    for name, count in (("users in", manifest.users.users_in), ("users published", manifest.users.published)):
        console.print(f"{name:<44} {count:>12,}")
    for instruction in manifest.arms:
        rows = sum(file.rows for file in manifest.files if file.arm == instruction)
        console.print(f"{'vectors: ' + instruction:<44} {rows:>12,}", markup=False)
    console.print(f"embeddings: {where} ({embedded.publication.outcome})", soft_wrap=True)


main = command(embed)

if __name__ == "__main__":
    main()
