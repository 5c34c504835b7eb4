"""Measures whether slates of the whole job satisfy requests in words, read from a file.

    python -m benchmarks.instruct_job --data movietweetings --root DIR --requests FILE.yaml --check
    python -m benchmarks.instruct_job --data movietweetings --root DIR --requests FILE.yaml --encoder null --llm

FILE has four lists: `free` (words that the catalogue does not use), `named` (the catalogue's own names), `negated` and
`nonsense`. An entry is {text, any: [..], all: [..], none: [..], title: [..]}: facet names of which an item must have
any, all or none, and words of its title; of nonsense a text alone. Each request is given to `--users` users. Two arms
without an LLM differ in nothing but the requests: `plain` has none, `asked` has them; `--llm` adds `llm`, with
requests.

satisfied@10: how many of the first ten items satisfy the request, as a share of ten or of the items of the catalogue
that satisfy it, if these are fewer ("red umbrellas": two). Nonsense: the share of users whose first ten
are those of `plain`. Bars: free >= .80, named >= .97, negated >= .95, nonsense 1. Intervals: 95%, over requests.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import yaml

import rayrec
from benchmarks.quality import CONF, SETTINGS
from rayrec.config import load
from rayrec.instructions.facets import Facets
from rayrec.instructions.title_search import TitleIndex
from rayrec.monitoring.request_recognition import facets_text
from rayrec.pipeline import daily_run
from rayrec.pipeline.interaction_ingest import histories
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.understood_texts import understood_texts
from rayrec.pipeline.worker_cache import worker_cache
from rayrec.ray_support import cluster

BARS = {"free": 0.80, "named": 0.97, "negated": 0.95, "nonsense": 1.0}
_TOP = 10


@dataclass(frozen=True)
class Request:
    kind: str
    text: str
    any: tuple[str, ...] = ()
    all: tuple[str, ...] = ()
    none: tuple[str, ...] = ()
    title: tuple[str, ...] = ()

    def satisfied(self, facets: Facets, titles: TitleIndex) -> np.ndarray:
        """Which items satisfy it, bool [items]. A name that is no facet is a word of titles; raises ValueError for one
        that no title has."""
        has = {name: self._has(facets, titles, name) for name in (*self.any, *self.all, *self.none)}
        good = np.ones(len(facets.of_item), np.bool_)
        if self.title:
            good &= np.isin(np.arange(len(good)), titles.items_with(self.title))
        if self.any:
            good &= np.any([has[name] for name in self.any], axis=0)
        for name in self.all:
            good &= has[name]
        for name in self.none:
            good &= ~has[name]
        return good

    def satisfied_share(self, facets: Facets, titles: TitleIndex, first: Sequence[int]) -> float:
        """satisfied@10 of a slate's first ten items (codes)."""
        good = self.satisfied(facets, titles)
        return float(good[np.asarray(first, np.int64)].sum() / max(min(_TOP, int(good.sum())), 1))

    @staticmethod
    def _has(facets: Facets, titles: TitleIndex, name: str) -> np.ndarray:
        numbers = [number for number, own in enumerate(facets.name) if own == name.lower()]
        if not numbers:
            if not len(found := titles.items_with([name.lower()])):
                raise ValueError(f"the catalogue has no facet and no title with {name!r}")
            return np.isin(np.arange(titles.items), found)
        return facets.items_of(numbers[:1])


def read_requests(path: str) -> list[Request]:
    content = yaml.safe_load(Path(path).read_text(encoding="utf8"))
    found = []
    for kind in BARS:
        for entry in content.get(kind, []):
            given = {"text": entry} if isinstance(entry, str) else dict(entry)
            text = str(given.pop("text"))
            found.append(Request(kind, text, **{key: tuple(map(str, names)) for key, names in given.items()}))
    return found


def give_requests(context: RunContext, requests: list[Request], users: int, path: Path, arms: list[str]) -> list[str]:
    """Write the instruction table; the users in the order of the requests, `users` each."""
    known = [user for shard in range(context.config.data.shard_count) for user in _users(context, shard)]
    chosen = np.random.default_rng(5).permutation(sorted(known))[: users * len(requests)].tolist()
    rows = [(user, arm, "", requests[place // users].text) for place, user in enumerate(chosen) for arm in arms]
    with open(path, "w", encoding="utf8", newline="") as file:
        csv.writer(file).writerows([("user_id", "arm", "preference", "intention"), *rows])
    return chosen


def _users(context: RunContext, shard: int) -> list[str]:
    table = histories(context, shard)
    enough = pc.greater_equal(pc.list_value_length(table["item"]), 3)
    return list(table.filter(enough)["user_id"].to_pylist())


def first_items(root: str, day: str, arm: str, code_of: dict[str, int]) -> dict[str, list[int]]:
    slates = rayrec.read_slates(root, day, arm=arm).filter(pc.field("rank") <= _TOP)
    found: dict[str, list[int]] = {}
    for row in (
        slates.sort_by([("user_id", "ascending"), ("rank", "ascending")]).select(["user_id", "item_id"]).to_pylist()
    ):
        found.setdefault(row["user_id"], []).append(code_of[row["item_id"]])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=tuple(SETTINGS), required=True)
    parser.add_argument("--root", required=True)
    parser.add_argument("--requests", required=True)
    parser.add_argument("--date", default=None)
    parser.add_argument("--users", type=int, default=8, help="of each request")
    parser.add_argument("--encoder", default="auto")
    parser.add_argument("--llm", action="store_true", help="an arm with the item-token LLM, too")
    parser.add_argument("--set", action="append", default=[], help="config settings, as key=value")
    parser.add_argument("--check", action="store_true", help="exit with 1 below a bar")
    given = parser.parse_args()
    setting, requests = SETTINGS[given.data], read_requests(given.requests)
    day = date.fromisoformat(given.date or setting.dates[0])
    asked = ["asked", "llm"] if given.llm else ["asked"]
    plain = "{denoise: {method: none}, rerank: {method: none}}"
    arms = f"arms.variants={{plain: {plain}, asked: {plain}{', llm: {}' if given.llm else ''}}}"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        shutil.copytree(given.root, root)
        sets = [f"data.root={root}", f"output.root={folder}/out", arms, "output.examples=0", *given.set]
        sets.append(f"instruction.encoder={given.encoder}")
        with cluster.connect(load(CONF / setting.config, sets).resources):
            before = RunContext(load(CONF / setting.config, sets), day)
            daily_run.ingest(before)
            users = give_requests(before, requests, given.users, root / "requests.csv", asked)
            columns = ", ".join(f"{name}: {name}" for name in ("user_id", "arm", "preference", "intention"))
            table = f"data.instructions={{path: requests.csv, {columns}}}"
            context = RunContext(load(CONF / setting.config, [*sets, table]), day)
            daily_run.run(context)
        cache, meanings = worker_cache(context), understood_texts(context)
        code_of = {item: code for code, item in enumerate(cache.item_ids.to_pylist())}
        slates = {arm: first_items(f"{folder}/out", day.isoformat(), arm, code_of) for arm in ("plain", *asked)}
    met = True
    for arm in ("plain", *asked):
        shares: dict[str, list[float]] = {kind: [] for kind in BARS}
        for number, request in enumerate(requests):
            own = [user for user in users[number * given.users : (number + 1) * given.users] if user in slates[arm]]
            if not own:
                continue
            if request.kind == "nonsense":
                share = float(np.mean([slates[arm][user] == slates["plain"][user] for user in own]))
            else:
                first = (slates[arm][user] for user in own)
                share = float(np.mean([request.satisfied_share(cache.facets, cache.titles, one) for one in first]))
            shares[request.kind].append(share)
            if arm == "asked":
                meant = facets_text(meanings[request.text], cache.facets.scheme)
                print(f"  {share:.2f}  {request.text!r}: {meant or '-'}")
        for kind, values in shares.items():
            if values:
                error = 1.96 * np.std(values) / len(values) ** 0.5
                print(
                    f"{arm:<8}{kind:<10}{np.mean(values):.3f} ±{error:.3f}  ({len(values)} requests, bar {BARS[kind]})"
                )
                met &= arm == "plain" or bool(np.mean(values) >= BARS[kind])
    return 1 if given.check and not met else 0


if __name__ == "__main__":
    sys.exit(main())
