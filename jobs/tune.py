"""Only the LLM of a date: item models, then the checkpoint, found or made. `jobs.daily` does this too.

    python -m jobs.tune --config conf/online_retail.yaml --set data.root=DIR --set output.root=OUT --date 2011-08-31

A tuning that was killed goes on after its last epoch.
"""

from __future__ import annotations

from jobs.cli import ConfigPath, DateOption, Overrides, PrintConfig, as_date, command, settings
from rayrec.pipeline.daily_run import check
from rayrec.pipeline.interaction_ingest import ingest
from rayrec.pipeline.model_fitting import fit_item_models, tune_llms
from rayrec.pipeline.run_context import RunContext
from rayrec.ray_support import cluster
from rayrec.reporting.terminal import results_console
from rayrec.reranking.item_token.tuned_checkpoint import read_model_card


def tune(config: ConfigPath, date: DateOption, overrides: Overrides = None, print_config: PrintConfig = False) -> None:
    """Tune the LLM that scoring this date needs, and print its loss curve."""
    work = RunContext(settings(config, overrides, print_config), as_date(date))
    check(work)
    console = results_console()
    with cluster.connect(work.config.resources):
        data = ingest(work)
        models = tune_llms(work, data, fit_item_models(work, data))
    for model in models:
        if model.llm is None:
            console.print("no arm asks an LLM (rerank.method: none): nothing was tuned")
            return
        console.print(f"checkpoint as of {model.date}: {work.storage.url(model.llm)}", soft_wrap=True)
        for row in read_model_card(work.storage, model.llm).curve:
            judged = f"  validation {row['validation']:.4f}" if "validation" in row else ""
            console.print(f"  epoch {row['epoch']:.0f}  loss {row['loss']:.4f}{judged}")


main = command(tune)

if __name__ == "__main__":
    main()
