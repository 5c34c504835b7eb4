"""`data.shards: auto` becomes a number where a run begins, and the number is part of the fingerprints."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
import yaml

from rayrec.config import load
from rayrec.data import input_files
from rayrec.pipeline.run_context import RunContext


def test_a_runs_config_has_a_number_of_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "events.csv").write_text("user_id,item_id,ts\n" + "u,i,2026-01-01\n" * 200)
    written = tmp_path / "c.yaml"
    items = {"from_interactions": True, "title": None}
    data = {"interactions": {"path": "events.csv"}, "items": items}
    written.write_text(yaml.safe_dump({"name": "x", "data": data, "arms": {"variants": {"only": {}}}}))

    def context(*sets: str) -> RunContext:
        places = [f"data.root={tmp_path}", f"output.root={tmp_path / 'out'}"]
        return RunContext(load(written, [*places, *sets]), date(2026, 1, 2))

    small = context()
    assert small.config.data.shards == 16
    monkeypatch.setattr(input_files, "_SHARD_BYTES", 30)
    large = context()
    assert large.config.data.shards == large.config.data.shard_count == 34
    assert large.record.shards == 34
    assert large.data_fingerprint != small.data_fingerprint
    assert large.record.fingerprint != small.record.fingerprint
    assert context("data.shards=34") == large
    assert context(f"data.root={tmp_path / 'nowhere'}").config.data.shard_count == 16
