"""What users' histories say of them, as rows of an instruction table: by rules, or by an LLM that reads titles."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from rayrec.contracts.ragged import Ragged
from rayrec.contracts.schemas import INSTRUCTION
from rayrec.hashing import seed_of
from rayrec.instructions.teachers.llm import LlmTeacher
from rayrec.instructions.teachers.rules import RulesTeacher
from rayrec.pipeline.asking import facets
from rayrec.pipeline.day import Day
from rayrec.pipeline.ingest import histories
from rayrec.pipeline.models import catalogue_of

Tell = Callable[[list[str], Ragged], list[str | None]]  # user ids, their items -> what each likes


def preferences(day: Day, tell: Tell) -> Iterator[pa.Table]:
    """INSTRUCTION of every shard: a preference of each user of whom something can be said. The day is ingested."""
    for shard in range(day.config.data.shards):
        table = histories(day, shard)
        item = Ragged.from_arrow(table["item"])
        weight = np.asarray(day.event_weights, np.float32)[Ragged.from_arrow(table["event"]).values]
        users = table["user_id"].to_pylist()
        said = tell(users, item.filter(weight > 0))
        rows = [(user, text) for user, text in zip(users, said, strict=True) if text]
        columns = [
            pa.array([user for user, _ in rows], pa.string()),
            pa.nulls(len(rows), pa.string()),
            pa.array([text for _, text in rows], pa.string()),
            pa.nulls(len(rows), pa.string()),
        ]
        yield pa.table(columns, schema=INSTRUCTION)


def by_rules(day: Day) -> Tell:
    """From the facets that a history holds more of than the catalogue does; a user's words depend on them alone."""
    teacher = RulesTeacher(facets(day))

    def tell(users: list[str], item: Ragged) -> list[str | None]:
        rows = zip(users, range(len(users)), strict=True)
        own = [(user, Ragged.from_lengths(item[row].astype(np.int64), [len(item[row])])) for user, row in rows]
        return [teacher.preferences(one, np.random.default_rng(seed_of("teach", user)))[0] or None for user, one in own]

    return tell


def by_llm(day: Day, teacher: LlmTeacher) -> Tell:
    """From titles, in the checkpoint's words."""
    titles = catalogue_of(day)["title"].to_pylist()

    def tell(users: list[str], item: Ragged) -> list[str | None]:
        return teacher.preferences([[titles[code] for code in item[row]] for row in range(len(item))])

    return tell
