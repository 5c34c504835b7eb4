"""Only the LLM of a date: item models, then the checkpoint, found or made. `jobs.daily` does this too.

    python -m jobs.tune --config conf/online_retail.yaml --set data.root=DIR --set output.root=OUT --date 2011-08-31

A tuning that was killed goes on after its last epoch.
"""

from __future__ import annotations

from jobs.cli import ConfigPath, DayOption, Overrides, PrintConfig, command, day_of, settings
from rayrec import cluster
from rayrec.evaluation.terminal import results_console
from rayrec.pipeline.daily import check
from rayrec.pipeline.day import Day
from rayrec.pipeline.ingest import ingest
from rayrec.pipeline.learn import fit_models, tune_models
from rayrec.reranking.artefact import read_card


def tune(config: ConfigPath, date: DayOption, overrides: Overrides = None, print_config: PrintConfig = False) -> None:
    """Tune the LLM that scoring this date needs, and print its loss curve."""
    work = Day(settings(config, overrides, print_config), day_of(date))
    check(work)
    console = results_console()
    with cluster.connect(work.config.resources):
        data = ingest(work)
        models = tune_models(work, data, fit_models(work, data))
    for model in models:
        if model.llm is None:
            console.print("no arm asks an LLM (rerank.method: none): nothing was tuned")
            return
        console.print(f"checkpoint as of {model.day}: {work.storage.url(model.llm)}", soft_wrap=True)
        for row in read_card(work.storage, model.llm).curve:
            judged = f"  validation {row['validation']:.4f}" if "validation" in row else ""
            console.print(f"  epoch {row['epoch']:.0f}  loss {row['loss']:.4f}{judged}")


main = command(tune)

if __name__ == "__main__":
    main()
