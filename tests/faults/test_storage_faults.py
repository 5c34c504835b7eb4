"""A whole run on an S3 that fails ends well, with the rows of a run on a sound store, and says how often it failed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from s3_server import injected
from small_runs import differences
from tiny_runs import TinyShop

from jobs.daily import result_counts
from rayrec.monitoring.run_statistics import ALL_ARMS, REPEATED, counts_by_arm
from rayrec.pipeline import daily_run
from rayrec.pipeline.run_artifacts import read_run_statistics
from rayrec.storage import retries

PERCENT = 5


def test_a_run_on_a_store_that_fails_gives_the_same_rows(
    local_ray: None, s3_server: str, failing_bucket: Callable[[int, int], str], tmp_path: Path
) -> None:
    """5% of all requests fail: 500, 503, resets, lost answers, half and slow bodies. Input, work, models and slates."""
    shop = TinyShop.make(tmp_path)
    sound = daily_run.run(shop.context(tmp_path / "out"))
    assert sound.repeats == {}

    root = failing_bucket(PERCENT, 19)
    shop.copy_data(f"{root}/data")
    result = daily_run.run(shop.context(f"{root}/out", f"data.root={root}/data"))
    faults = injected(s3_server, root)
    assert sum(faults.values()) - faults["requests"] > faults["requests"] * PERCENT / 200
    assert not differences(shop.published(f"{root}/out"), shop.published(tmp_path / "out"), but=("slate_id",))

    assert result.repeats[retries.CALLS] > 0
    statistics = read_run_statistics(result.context, result.manifest.run_id)
    assert counts_by_arm(statistics, REPEATED) == {ALL_ARMS: {kind: float(n) for kind, n in result.repeats.items()}}
    said = dict(result_counts(result))
    assert said["storage calls repeated after storage errors"] == result.repeats[retries.CALLS]

    again = daily_run.run(shop.context(f"{root}/out", f"data.root={root}/data"))
    assert again.already_published
