"""After an erasure no file under the root and in temporary folders holds an id, in whatever format; killed writers."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from erasure_dataset import Made
from waiting import PATIENCE_S, line_of

from jobs import daily as daily_job
from jobs import evaluate as evaluate_job
from jobs import forget as forget_job
from rayrec.data import erasure_list
from rayrec.data.id_search import IdSearch
from rayrec.data.schemas import QUARANTINE
from rayrec.errors import PublicationError
from rayrec.evaluation import evaluation_job
from rayrec.pipeline.erasure_check import publish_unless_erased
from rayrec.pipeline.erasure_search import search
from rayrec.publishing.manifest import find_manifest
from rayrec.reporting.html_report import read_report, write_report
from rayrec.storage import Storage
from rayrec.storage.decoded_content import decoded
from rayrec.storage.tables import read_parquet, write_parquet

_WRITER = """
import os, signal, sys
from rayrec.storage import Storage, temporary_folders

root, user, moment = sys.argv[1:]
rows = f"{user},item\\n".encode() * 100
storage = Storage(root)
if moment == "write":  # a table of a shard
    with storage.writer("slates/dt=2011-08-31/arm=a/shard=0000-0a-0b.parquet") as file:
        file.write(rows)
        file.flush()
        print("ready", flush=True)
        signal.pause()
elif moment == "create":  # a receipt
    import rayrec.storage.backends as backends
    def link(*paths):
        print("ready", flush=True)
        signal.pause()
    backends.os.link = link
    storage.create("runs/dt=2011-08-31/0a/receipts/shard=0000.json", rows)
else:  # a file on its way to a remote store, or a tuning
    (temporary_folders.process_folder() / "staged").write_bytes(rows)
    print("ready", flush=True)
    signal.pause()
"""


def kill_a_writer(root: Path, temp: Path, user: str, moment: str) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(root), user, moment],
        env=os.environ | {"TMPDIR": str(temp)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert line_of(writer, writer.stdout).strip() == "ready"
    writer.send_signal(signal.SIGKILL)
    writer.wait(PATIENCE_S)


def holding(folder: Path, users: tuple[str, ...]) -> list[str]:
    """Files below a folder, hidden ones too, that hold one of the ids in any layer."""
    ids = IdSearch(users)
    assert len(ids.ids) == len(users)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(str(path.relative_to(folder)) for path in files if any(map(ids.found_in, decoded(path.read_bytes()))))


@pytest.fixture
def dirty(made: Made, temp: Path) -> Made:
    """A root with all that an interrupted night leaves of the users: staging files, and rows that nobody owns."""
    for moment, user in zip(("write", "create", "stage"), made.gone, strict=False):
        kill_a_writer(made.root, temp, user, moment)
    (temp / "rayrec-01234567").write_bytes(made.gone[0].encode())  # by an older version
    raws = [json.dumps({"line": f"{user},broken"}) for user in made.gone] + ["another row"]
    rows = [
        dict(zip(QUARANTINE.names, ("f", n, None, "malformed_row", raw, raw), strict=True))
        for n, raw in enumerate(raws)
    ]
    table = pa.Table.from_pylist(rows, QUARANTINE)
    write_parquet(made.storage, f"quarantine/dt={made.date}/0123456789abcdef/splits-0a/split=0000.parquet", table)
    report = read_report(made.storage, made.date.isoformat())
    write_report(dataclasses.replace(report, quarantine_examples=table), made.storage)
    return made


def forget(made: Made, *more: str) -> Any:
    result = made.run(forget_job.main, "--users", str(made.file_of(made.gone)), *more)
    assert result.exit_code == 0, result.output
    (path,) = made.storage.list("erasure/certificates")
    return json.loads(made.storage.read(path.path))


def test_nothing_that_killed_writers_left_keeps_an_id(dirty: Made, temp: Path) -> None:
    before = holding(dirty.root, dirty.gone)
    assert {path.split("/")[0] for path in before} >= {"slates", "runs", "quarantine", "reports", "work"}
    assert sum(path.endswith(".tmp") for path in before) == 2
    assert len(holding(temp, dirty.gone)) == 2
    certificate = forget(dirty)
    assert holding(dirty.root, dirty.gone) == []
    assert holding(temp, dirty.gone) == []
    assert certificate["staging_files_deleted"] == 2
    assert certificate["quarantined_rows_emptied"] > len(dirty.gone)  # and those of the run itself
    searched = certificate["searched"]
    assert searched["ids_searched_byte_by_byte"] == len(dirty.gone)
    assert sum(searched["files"].values()) == len([path for path in dirty.root.rglob("*") if path.is_file()]) - 1
    assert searched["decoded_bytes"] > searched["bytes"] > 0
    assert searched["searched_as_they_are"] == []
    assert searched["temporary_folders"][0]["deleted"] == 2
    table = read_parquet(dirty.storage, f"quarantine/dt={dirty.date}/0123456789abcdef/splits-0a/split=0000.parquet")
    assert table["reason"].to_pylist() == ["malformed_row"] * (len(dirty.gone) + 1)


def test_a_later_night_does_not_bring_the_ids_back(dirty: Made) -> None:
    """The input still has their rows, among them some that break the contract."""
    forget(dirty)
    later = dirty.date + timedelta(days=1)
    result = dirty.run(daily_job.main, "--date", later.isoformat())
    assert result.exit_code == 0, result.output
    assert holding(dirty.root, dirty.gone) == []


def test_a_file_of_somebody_else_with_an_id_refuses_the_certificate(made: Made) -> None:
    (made.root / "slates" / "backup.csv.gz").write_bytes(gzip.compress(made.gone[0].encode()))
    result = made.run(forget_job.main, "--users", str(made.file_of(made.gone)))
    assert result.exit_code == 2
    assert "backup.csv.gz" in result.output
    assert made.gone[0] not in result.output
    assert made.storage.list("erasure/certificates") == []


def test_input_below_the_root_is_left_alone(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.write("data/events.csv", b"user-0007,1")
    storage.write("users.csv", b"user_id\nuser-0007\n")
    storage.write("reports/.report.html.0.tmp", b"user-0007")
    found = search(storage, ["user-0007"], (str(tmp_path / "users.csv"), str(tmp_path / "data"), ""))
    assert (found.found, found.inputs) == (["reports/.report.html.0.tmp"], 2)
    assert storage.delete_staging_files() == 1


def test_a_publication_during_an_erasure_is_refused_or_erased(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    context, manifest = made.context(), find_manifest(made.storage, made.date)
    assert manifest is not None
    assert not context.erasure_list

    class Run:
        product = type("Product", (), {"name": "slates"})

        def publish(self, provenance: object) -> str:
            erasure_list.add(made.storage, pa.array(made.gone))  # between the check and the publication
            return "published"

    assert publish_unless_erased(context, Run(), None) == "published"  # type: ignore[arg-type]
    left = find_manifest(made.storage, made.date)
    assert left is not None
    assert left.users.ineligible["erased"] == len(made.gone)
    with pytest.raises(PublicationError, match="users were erased while the job ran"):
        publish_unless_erased(context, Run(), None)  # type: ignore[arg-type]

    evaluate = evaluation_job.evaluate

    def slow(*arguments: Any) -> Any:
        result = evaluate(*arguments)
        erasure_list.add(made.storage, pa.array(["somebody"]))
        return result

    monkeypatch.setattr(evaluation_job, "evaluate", slow)
    refused = made.run(evaluate_job.main, "--date", made.date.isoformat())
    assert refused.exit_code == 4, refused.output
    assert "no metrics are written" in refused.output
