"""Item tokens with requests: the effect of one item's texts on the scores of other items."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from attacks import ATTACKS
from small_model import INSTRUCTION
from small_tables import candidate_table

from rayrec.data.schemas import ITEM, MICROSECONDS_PER_DAY
from rayrec.instructions.facet_scheme import CATEGORY, WORD, FacetScheme
from rayrec.reranking.engines.engine import Engine, Float32
from rayrec.reranking.item_token.item_token_ranker import ItemTokenRanker
from rayrec.reranking.item_token.request_guidance import FACET_MATCH_WEIGHT
from rayrec.reranking.item_token.tuned_checkpoint import LocalCheckpoint

NOW = 100 * MICROSECONDS_PER_DAY
ATTACKER, ITEMS = 10, 300
NOIR = (20, 40, 60, 80)  # with one more, a request could name it
REQUESTS = ("a western", "film noir, no war please", "something of glass under 5", "a lantern", "from the 90s", None)
NAMING = ("noir", "western|war|noir", "glass; lantern; 1990s", "lantern " * 200, "noir" + ATTACKS[0])


def catalogue(texts: str | None = None, year: str | None = None) -> pa.Table:
    """`texts`: all texts of the attacker's item, and its year unless `year` is given."""
    rows = [
        {
            "item_id": f"i{code:03}",
            "title": f"A {('lamp', 'lantern', 'door')[code % 3]} numbered {code}",
            "category": "noir" if code in NOIR else ("western", "war|drama", "comedy")[code % 3],
            "description": None,
            "available": True,
            "attributes": [
                ("year", str(1950 + code % 70)),
                ("price", f"{code / 20}"),
                ("made of", ("glass", "wood", "tin", "iron")[code % 4]),
            ],
        }
        for code in range(ITEMS)
    ]
    if texts is not None:
        attributes = [("year", year or texts), ("price", texts), ("made of", texts), (texts, texts)]
        rows[ATTACKER] |= {"title": texts, "category": texts, "description": texts, "attributes": attributes}
    return pa.Table.from_pylist(rows, ITEM)


def asking() -> pa.Table:
    """Each of REQUESTS, from a user with a history."""
    users, offered = len(REQUESTS), list(range(0, ITEMS, 2))
    histories = [[2, 4, 6, 8 + 2 * user] for user in range(users)]
    ts = [[NOW - day * MICROSECONDS_PER_DAY for day in (4, 3, 2, 1)]] * users
    names = [f"u{user}" for user in range(users)]
    table = candidate_table(names, histories, [offered] * users, ts=ts, ease=[[0.5] * len(offered)] * users)
    texts = pa.array(REQUESTS, pa.string())
    return table.append_column("instruction", texts).append_column("request", texts)


def others(engine: Engine, model: LocalCheckpoint, items: pa.Table, scheme: FacetScheme | None) -> Float32:
    """The scores [users, items] of all items except the attacker's."""
    tuned = replace(model, card=replace(model.card, facets=scheme))
    read = ItemTokenRanker(engine, tuned, items, INSTRUCTION, NOW)(asking())
    assert read["error"].null_count == len(REQUESTS)
    return np.delete(np.array(read["llm_score"].to_pylist(), np.float32), ATTACKER // 2, axis=1)


@pytest.fixture(scope="module")
def scheme() -> FacetScheme:
    """The scheme of the catalogue at tuning time."""
    return FacetScheme.of(catalogue())


@pytest.fixture(scope="module")
def honest(reference_engine: Engine, small_model: LocalCheckpoint, scheme: FacetScheme) -> Float32:
    return others(reference_engine, small_model, catalogue(), scheme)


@pytest.mark.parametrize("attack", [*ATTACKS, *NAMING], ids=range(len(ATTACKS) + len(NAMING)))
def test_no_attack_changes_the_score_of_another_item(
    reference_engine: Engine, small_model: LocalCheckpoint, scheme: FacetScheme, honest: Float32, attack: str
) -> None:
    for year in (None, "1994"):
        after = others(reference_engine, small_model, catalogue(attack, year), scheme)
        np.testing.assert_array_equal(after, honest)


def test_requests_change_scores(
    reference_engine: Engine, small_model: LocalCheckpoint, scheme: FacetScheme, honest: Float32
) -> None:
    """Guards the test above against passing trivially."""
    moved = honest - others(reference_engine, small_model, catalogue(), None)
    assert {CATEGORY, WORD} <= set(scheme.kind)
    for row, request in zip(moved, REQUESTS, strict=True):
        assert (np.abs(row).max() > FACET_MATCH_WEIGHT / 2) == (request is not None)


def test_scheme_of_the_attacked_catalogue_would_allow_the_attack(
    reference_engine: Engine, small_model: LocalCheckpoint, honest: Float32
) -> None:
    """The reason for storing the scheme with the model: a fifth item of a category makes it a facet."""
    after = others(reference_engine, small_model, catalogue("noir"), FacetScheme.of(catalogue("noir")))
    assert not np.array_equal(after, honest)
