"""Only the item models of a date (and of the cuts that the blend learns from), found or made; part of `jobs.daily`.

python -m jobs.fit --config conf/online_retail.yaml --set data.root=DIR --set output.root=OUT --date 2011-08-31
"""

from __future__ import annotations

from jobs.cli import ConfigPath, DateOption, Overrides, PrintConfig, as_date, command, settings
from rayrec.pipeline.daily_run import check
from rayrec.pipeline.interaction_ingest import ingest
from rayrec.pipeline.model_fitting import fit_item_models
from rayrec.pipeline.run_context import RunContext
from rayrec.ray_support import cluster
from rayrec.reporting.terminal import results_console


def fit(config: ConfigPath, date: DateOption, overrides: Overrides = None, print_config: PrintConfig = False) -> None:
    """Fit the item models that scoring this date needs."""
    work = RunContext(settings(config, overrides, print_config), as_date(date))
    check(work)
    with cluster.connect(work.config.resources):
        models = fit_item_models(work, ingest(work))
    for model in models:
        results_console().print(f"item model as of {model.date}: {model.item_model}")


main = command(fit)

if __name__ == "__main__":
    main()
