"""A published date refuses a different run and names the differences."""

from __future__ import annotations

import dataclasses

import pytest
from small_day import INPUTS, publish_day, record

from rayrec.errors import PublicationError
from rayrec.publishing import PublishingRun
from rayrec.storage import Storage


def test_another_config_is_refused_with_the_settings_that_differ(storage: Storage) -> None:
    publish_day(storage)
    before = storage.list()
    with pytest.raises(PublicationError) as error:
        PublishingRun.open(storage, record(slate={"size": 20, "policy": "greedy"}, rerank={"method": "none"}))
    text = str(error.value)
    assert "slates for 2011-08-31 are already published" in text
    assert "slate.size: 5 -> 20" in text
    assert "rerank.method: (not set) -> none" in text
    assert "slate.policy" not in text
    assert "input " not in text
    assert "output.root" in text
    assert "manifest.json" in text
    assert storage.list() == before


def test_other_inputs_are_refused_with_the_files_that_differ(local: Storage) -> None:
    publish_day(local)
    first, second = INPUTS
    changed = (dataclasses.replace(first, size=101), dataclasses.replace(second, path="events/2011-08-28.csv"))
    with pytest.raises(PublicationError) as error:
        PublishingRun.open(local, dataclasses.replace(record(), inputs=changed, code_version="code-2"))
    text = str(error.value)
    assert "events/2011-08-29.csv: 100 -> 101 bytes" in text
    assert "events/2011-08-28.csv: added" in text
    assert "events/2011-08-30.csv: removed" in text
    assert "code    code-1 -> code-2" in text
    rewritten = (first, dataclasses.replace(second, version="c"))
    with pytest.raises(PublicationError, match=r"events/2011-08-30.csv: rewritten \(version b -> c\)"):
        PublishingRun.open(local, dataclasses.replace(record(), inputs=rewritten))


def test_a_thousand_changed_inputs_are_summarised_in_a_few_lines(local: Storage) -> None:
    publish_day(local)
    many = tuple(dataclasses.replace(INPUTS[0], path=f"events/{n:04d}.csv") for n in range(1000))
    with pytest.raises(PublicationError, match="and 992 more") as error:
        PublishingRun.open(local, dataclasses.replace(record(), inputs=many))
    assert len(str(error.value).splitlines()) < 20
