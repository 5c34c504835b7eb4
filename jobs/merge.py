"""Merge several LoRA adapters of one checkpoint into one, for `rerank.adapter`.

    python -m jobs.merge --adapter A --adapter B --out NEW --method ties

Adapters are PEFT folders: your own, or those that runs tuned (models/text_adapter/<fingerprint>/<attempt>).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from jobs.cli import command
from rayrec.errors import ConfigError
from rayrec.reporting.terminal import results_console
from rayrec.reranking.text.adapter_merge import merge_adapters

Adapters = Annotated[list[Path], typer.Option("--adapter", help="A folder to merge; at least two.")]
Out = Annotated[Path, typer.Option("--out", help="The folder to write; it must not exist.")]
How = Annotated[Literal["average", "ties", "breadcrumbs"], typer.Option("--method", help="How changes are merged.")]
Density = Annotated[float, typer.Option(min=0, max=1, help="Share of each adapter's changes that is merged.")]
Outliers = Annotated[float, typer.Option(min=0, max=1, help="Share of the largest that breadcrumbs leaves out.")]
Rank = Annotated[int, typer.Option(min=1, max=512, help="Rank of the merged adapter.")]


def merge(
    adapter: Adapters,
    out: Out,
    method: How = "average",
    density: Density = 0.2,
    outliers: Outliers = 0.01,
    rank: Rank = 32,
) -> None:
    """Merge LoRA adapters."""
    if len(adapter) < 2 or out.exists():
        raise ConfigError(
            "there is nothing to merge" if len(adapter) < 2 else "the folder exists",
            where="--adapter" if len(adapter) < 2 else f"--out {out}",
            hint="give --adapter twice or more, and a new folder as --out",
        )
    kept = merge_adapters(adapter, out, method, density=density, outliers=outliers, rank=rank)
    results_console().print(f"adapter: {out}: rank {rank} keeps {kept:.1%} of the merged change", soft_wrap=True)


main = command(merge)

if __name__ == "__main__":
    main()
