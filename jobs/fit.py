"""Only the item models of a date (and of the cuts that the blend learns from), found or made; part of `jobs.daily`.

python -m jobs.fit --config conf/online_retail.yaml --set data.root=DIR --set output.root=OUT --date 2011-08-31
"""

from __future__ import annotations

from jobs.cli import ConfigPath, DayOption, Overrides, PrintConfig, command, day_of, settings
from rayrec import cluster
from rayrec.evaluation.terminal import results_console
from rayrec.pipeline.daily import check
from rayrec.pipeline.day import Day
from rayrec.pipeline.ingest import ingest
from rayrec.pipeline.learn import fit_models


def fit(config: ConfigPath, date: DayOption, overrides: Overrides = None, print_config: PrintConfig = False) -> None:
    """Fit the item models that scoring this date needs."""
    work = Day(settings(config, overrides, print_config), day_of(date))
    check(work)
    with cluster.connect(work.config.resources):
        models = fit_models(work, ingest(work))
    for model in models:
        results_console().print(f"item model as of {model.day}: {model.item_model}")


main = command(fit)

if __name__ == "__main__":
    main()
