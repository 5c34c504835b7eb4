"""Fit the item models of one date, a part of `jobs.daily`.

python -m jobs.fit --config conf/online_retail.yaml --set data.root=DIR --set output.root=OUT --date 2011-08-31

One model as of the date, and one as of each earlier cutoff that the blender learns from. Models that exist are reused.
"""

from __future__ import annotations

from jobs.cli import ConfigPath, DateOption, Overrides, PrintConfig, as_date, command, settings
from rayrec.pipeline.daily_run import check
from rayrec.pipeline.interaction_ingest import ingest
from rayrec.pipeline.item_model_fitting import fit_item_models
from rayrec.pipeline.run_context import RunContext
from rayrec.ray_support import cluster
from rayrec.reporting.terminal import results_console


def fit(config: ConfigPath, date: DateOption, overrides: Overrides = None, print_config: PrintConfig = False) -> None:
    """Fit the item models that scoring this date needs."""
    context = RunContext(settings(config, overrides, print_config), as_date(date))
    check(context)
    with cluster.connect(context.config.resources):
        models = fit_item_models(context, ingest(context))
    for model in models:
        results_console().print(f"item model as of {model.date}: {model.item_model}")


main = command(fit)

if __name__ == "__main__":
    main()
