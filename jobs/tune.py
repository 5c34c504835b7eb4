"""Tune the LLM and the text rerankers of one date, a part of `jobs.daily`: item models first, then the checkpoints.

    python -m jobs.tune --config conf/online_retail.yaml --set data.root=DIR --set output.root=OUT --date 2011-08-31

Models that exist are reused. A tuning that was killed resumes after its last epoch.
"""

from __future__ import annotations

from jobs.cli import ConfigPath, DateOption, Overrides, PrintConfig, as_date, command, settings
from rayrec.monitoring.progress import format_epoch
from rayrec.pipeline.daily_run import check
from rayrec.pipeline.interaction_ingest import ingest
from rayrec.pipeline.item_model_fitting import fit_item_models
from rayrec.pipeline.llm_tuning import tune_llms
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.text_adapter_tuning import tune_text_adapters
from rayrec.ray_support import cluster
from rayrec.reporting.terminal import results_console
from rayrec.reranking.item_token.tuned_checkpoint import read_model_card
from rayrec.reranking.text.tuned_adapter import read_card


def tune(config: ConfigPath, date: DateOption, overrides: Overrides = None, print_config: PrintConfig = False) -> None:
    """Tune the LLM and the adapters that scoring this date needs, and print their loss curves."""
    context = RunContext(settings(config, overrides, print_config), as_date(date))
    check(context)
    console = results_console()
    with cluster.connect(context.config.resources):
        data = ingest(context)
        models = tune_text_adapters(context, data, tune_llms(context, data, fit_item_models(context, data)))
    for path in dict.fromkeys(path for _, path in models[-1].text_adapters):
        console.print(f"adapter: {context.storage.url(path)}", soft_wrap=True)
        for row in read_card(context.storage, path)["curve"]:
            console.print(f"  step {row['step']:.0f}  loss {row['loss']:.4f}")
    for model in models:
        if model.llm is None:
            if not model.text_adapters:
                console.print("nothing to tune: no arm uses a tuned LLM (rerank.method: item_token, or adapter: tuned)")
            return
        console.print(f"checkpoint as of {model.date}: {context.storage.url(model.llm)}", soft_wrap=True)
        for row in read_model_card(context.storage, model.llm).curve:
            console.print(f"  {format_epoch(row)}")


main = command(tune)

if __name__ == "__main__":
    main()
