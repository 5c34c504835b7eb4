"""The instruction of each user in an arm, against a plain loop over the four levels."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from rayrec.data.schemas import INSTRUCTION
from rayrec.instructions.instruction_table import instructions_for

_texts = st.none() | st.sampled_from(["tea", "cups", "a gift"])
_keys = st.tuples(st.sampled_from(["*", "ann", "bob", "eve"]), st.sampled_from([None, "control", "llm"]))
_tables = st.dictionaries(_keys, st.tuples(_texts, _texts).filter(any))
_users = st.lists(st.sampled_from(["ann", "bob", "eve", "dan", "*"]), max_size=6)

Table = dict[tuple[str, str | None], tuple[str | None, str | None]]


def arrow(table: Table) -> pa.Table:
    rows = [dict(zip(INSTRUCTION.names, (*key, *texts), strict=True)) for key, texts in table.items()]
    return pa.Table.from_pylist(rows, schema=INSTRUCTION)


def by_loop(table: Table, user: str, arm: str, text: int) -> str | None:
    for key in ((user, arm), (user, None), ("*", arm), ("*", None)):
        said = table.get(key, (None, None))[text]
        if said is not None:
            return said
    return None


@given(_tables, _users)
def test_lookup_matches_a_plain_loop_over_the_four_levels(table: Table, users: list[str]) -> None:
    for arm in ("control", "llm", "new"):
        found = instructions_for(arrow(table), pa.array(users, pa.string()), arm)
        for text, column in enumerate(found):
            assert column.type == pa.string()
            assert column.to_pylist() == [by_loop(table, user, arm, text) for user in users]


def test_arm_wide_request_complements_user_profile() -> None:
    table = arrow({("*", None): (None, "a gift"), ("ann", None): ("tea", None), ("*", "llm"): (None, "cups")})
    users = pa.chunked_array([["ann"], ["bob"]])
    assert [column.to_pylist() for column in instructions_for(table, users, "control")] == [
        ["tea", None],
        ["a gift"] * 2,
    ]
    assert [column.to_pylist() for column in instructions_for(table, users, "llm")] == [["tea", None], ["cups"] * 2]
