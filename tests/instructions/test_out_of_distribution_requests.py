"""Out-of-distribution requests: the benchmark fills names into their fields."""

from __future__ import annotations

import pytest

from benchmarks.instruct_out_of_distribution import out_of_distribution_request
from rayrec.instructions.facet_scheme import CATEGORY, DECADE, WORD


@pytest.mark.parametrize("named", [{CATEGORY: "<kind>"}, {DECADE: "<years>"}, {CATEGORY: "<kind>", DECADE: "<years>"}])
def test_every_request_contains_each_name_once_and_no_open_field(named: dict[str, str]) -> None:
    texts = [out_of_distribution_request(named, number) for number in range(2_000)]
    assert len(set(texts)) == 60 * 30
    for text in texts:
        assert text is not None
        assert "{" not in text
        assert all(text.count(name) == 1 for name in named.values())


def test_title_words_have_no_out_of_distribution_request() -> None:
    assert out_of_distribution_request({WORD: "lantern"}, 0) is None
    assert out_of_distribution_request({}, 0) is None
