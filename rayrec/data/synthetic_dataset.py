"""A synthetic dataset with known ground truth: users with planted tastes, items with titles, and planted noise.

    dataset = make_synthetic_dataset("demo", seed=0)    # demo/data: input of the job; demo/truth: ground truth

The catalogue has ten categories, each with five lines of six products in a natural order (a tent, then a sleeping bag,
then a stove, ...; the last of a line leads to the first of the next). A user likes one to three categories and stays
with one for a while. With probability FOLLOW_UP_PROBABILITY, their next item is the follow-up of their last item in
that category; else it is drawn by its daily popularity, which drifts. Nobody consumes an item twice. Noise events
between them are items of other categories, also drawn by popularity, so that popularity alone does not reveal them.

Some users (INSTRUCTION_SHARE) state in instructions.csv which categories they like. The probability of every next item
is known, so the best possible slate (the Bayes limit) is computed and written to truth/best.csv.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.data.synthetic_products import CATEGORIES

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DATE = date(2026, 3, 2)  # the day to recommend for
PAST_DAYS, FUTURE_DAYS = 60, 7
FOLLOW_UP_PROBABILITY = 0.6  # of the next item being the follow-up of the last one of its category
STAY_PROBABILITY = 0.7  # of the next item being of the same category
NOISE_SHARE = 0.18  # of all events before the date
INSTRUCTION_SHARE = 0.1  # of all users: those with an instruction
ORACLE_SIZE = 50  # length of the best possible slate
_CUTOFF = int(datetime(DATE.year, DATE.month, DATE.day, tzinfo=UTC).timestamp()) * 10**6


@dataclass(frozen=True)
class SyntheticDataset:
    """The folders and counts of the dataset."""

    data_root: Path  # events/, items.csv, instructions.csv
    truth_root: Path  # next.csv, best.csv, noise.csv, broken.csv
    date: date
    users: int
    items: int
    events: int  # before the date, excluding broken rows
    noise: int  # of these
    broken: int  # planted rows that must be quarantined


@dataclass(frozen=True)
class _Catalogue:
    title: list[str]
    category: list[str]
    price: Floats
    kind: Ints  # [items] index into GOODS
    follow: Ints  # [items] the follow-up of each item
    popular: Floats  # [days, items] sums to 1 within each kind


@dataclass
class _Users:
    """The state of all users at one step."""

    cares: Floats  # [users, kinds], rows sum to 1
    kind: Ints  # [users] the kind of the last item, -1 at first
    last: Ints  # [users, kinds] last item of each kind, -1 at first
    seen: npt.NDArray[np.bool_]  # [users, items]


def make_synthetic_dataset(root: str | Path, *, seed: int = 0, users: int = 1200) -> SyntheticDataset:
    """Write the dataset under `root`: the same bytes for the same seed and users. Takes about two seconds."""
    rng = np.random.default_rng([seed, users])
    catalogue = _catalogue(rng)
    state = _make_users(rng, catalogue, users)
    past = rng.gamma(4.0, 6.0, users).astype(np.int64).clip(8, 60)
    past = np.minimum(past, 14 * (state.cares > 0).sum(1))  # no user must run out of items
    log = list(_events_by_step(rng, catalogue, state, _moments(rng, past, 0, PAST_DAYS), noise=NOISE_SHARE))
    best = next_item_probabilities(catalogue, state, np.full(users, PAST_DAYS))
    future = 1 + rng.poisson(2.0, users)
    upcoming = list(_events_by_step(rng, catalogue, state, _moments(rng, future, PAST_DAYS, FUTURE_DAYS), noise=0.0))
    return _write(rng, Path(root), catalogue, state, log, upcoming, best)


def _catalogue(rng: np.random.Generator) -> _Catalogue:
    title, category, price, kind = [], [], [], []
    for number, (name, goods) in enumerate(CATEGORIES.items()):
        for line in goods.lines:
            for product, base in goods.products.items():
                title.append(f"{line} {product}")
                category.append(name)
                kind.append(number)
                price.append(round(base * float(rng.uniform(0.7, 1.5)), 1) - 0.01)
    items = len(title)
    number_of = np.arange(items)
    per_kind = items // len(CATEGORIES)
    follow = number_of // per_kind * per_kind + (number_of % per_kind + 1) % per_kind
    days = np.arange(PAST_DAYS + FUTURE_DAYS)[:, None]
    steady = rng.permuted(np.tile(1 / np.arange(1, per_kind + 1) ** 0.8, (len(CATEGORIES), 1)), axis=1).ravel()
    peak, width = rng.uniform(-20, 90, items), rng.uniform(6, 20, items)
    popular = steady * (0.25 + 2 * np.exp(-0.5 * ((days - peak) / width) ** 2))
    within = popular.reshape(len(days), len(CATEGORIES), per_kind)
    popular = (within / within.sum(2, keepdims=True)).reshape(len(days), items)
    return _Catalogue(title, category, np.array(price), np.array(kind), follow, popular)


def _make_users(rng: np.random.Generator, catalogue: _Catalogue, users: int) -> _Users:
    kinds = len(CATEGORIES)
    number = rng.choice([1, 2, 3], users, p=[0.25, 0.45, 0.3])
    liking = rng.gumbel(size=(users, kinds)) + np.log(
        1 / np.arange(1, kinds + 1) ** 0.5
    )  # some kinds are liked by more
    order = np.argsort(-liking, axis=1)
    weight = rng.dirichlet([3.0, 3.0, 3.0], users)
    cares = np.zeros((users, kinds))
    for place in range(3):
        np.put_along_axis(cares, order[:, [place]], weight[:, [place]] * (place < number[:, None]), axis=1)
    cares /= cares.sum(1, keepdims=True)
    unseen = np.zeros((users, len(catalogue.title)), bool)
    return _Users(cares, np.full(users, -1), np.full((users, kinds), -1), unseen)


def next_item_probabilities(catalogue: _Catalogue, state: _Users, day: Ints) -> Floats:
    """P(the next wanted item), [users, items]; rows sum to 1. This is the complete behaviour model."""
    stay = np.where(state.kind >= 0, STAY_PROBABILITY, 0.0)[:, None]
    here = np.arange(state.cares.shape[1]) == state.kind[:, None]
    kind = stay * here + (1 - stay) * state.cares
    chain = np.where(state.last >= 0, FOLLOW_UP_PROBABILITY, 0.0)
    probability = (kind * (1 - chain))[:, catalogue.kind] * catalogue.popular[day]
    row, column = np.nonzero(state.last >= 0)
    probability[row, catalogue.follow[state.last[row, column]]] += (kind * chain)[row, column]
    probability[state.seen] = 0
    return np.asarray(probability / probability.sum(1, keepdims=True))


def _moments(rng: np.random.Generator, events: Ints, first_day: int, days: int) -> list[Ints]:
    """For each user, microseconds since the first day, ascending, in whole distinct seconds."""
    seconds = days * 86_400
    return [np.sort(rng.choice(seconds, n, replace=False) + first_day * 86_400) * 10**6 for n in events]


def _events_by_step(
    rng: np.random.Generator, catalogue: _Catalogue, state: _Users, moments: list[Ints], *, noise: float
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Simulate one event of every user per step; yields columns user, item, at (µs since the first day), noise."""
    for step in range(max(map(len, moments))):
        user = np.array([u for u, at in enumerate(moments) if len(at) > step])
        at = np.array([moments[u][step] for u in user])
        day = at // MICROSECONDS_PER_DAY
        now = _Users(state.cares[user], state.kind[user], state.last[user], state.seen[user])
        stray = rng.random(len(user)) < noise
        other = catalogue.popular[day] * ((now.cares == 0)[:, catalogue.kind] & ~now.seen)
        chosen = np.where(
            stray[:, None], other / other.sum(1, keepdims=True), next_item_probabilities(catalogue, now, day)
        )
        item = _draw(rng, chosen)
        state.seen[user, item] = True
        true_user, true_item = user[~stray], item[~stray]
        state.kind[true_user] = catalogue.kind[true_item]
        state.last[true_user, catalogue.kind[true_item]] = true_item
        yield {"user": user, "item": item, "at": at, "noise": stray}


def _draw(rng: np.random.Generator, probability: Floats) -> Ints:
    """Draw one column per row by its probability."""
    ladder = np.cumsum(probability, axis=1)
    drawn = (ladder < rng.random((len(ladder), 1)) * ladder[:, -1:]).sum(1)
    return np.asarray(drawn)


def _write(
    rng: np.random.Generator,
    root: Path,
    catalogue: _Catalogue,
    state: _Users,
    log: list[dict[str, npt.NDArray[Any]]],
    upcoming: list[dict[str, npt.NDArray[Any]]],
    best: Floats,
) -> SyntheticDataset:
    data_root, truth_root = root / "data", root / "truth"
    for folder in (data_root / "events", truth_root):
        folder.mkdir(parents=True, exist_ok=True)
    users, items = best.shape
    user_id = np.array([f"user-{number:04d}" for number in range(users)])
    item_id = np.array([f"item-{number:03d}" for number in rng.permutation(items)])  # ids do not reveal categories
    columns = {name: np.concatenate([step[name] for step in log + upcoming]) for name in log[0]}
    events = _events(rng, columns, user_id, item_id)
    broken = _broken(rng, events)
    rows = pa.concat_tables([events.drop_columns(["noise"]), broken]).sort_by("ts")
    day = pc.utf8_slice_codeunits(rows["ts"], 0, 10)
    for name in pc.unique(day).to_pylist():
        pa_csv.write_csv(rows.filter(pc.equal(day, name)), data_root / "events" / f"{name}.csv")
    pa_csv.write_csv(_items(catalogue, item_id), data_root / "items.csv")
    pa_csv.write_csv(_instructions(rng, state, user_id), data_root / "instructions.csv")
    past = events.filter(pc.less(events["ts"], DATE.isoformat()))
    noise = past.filter(past["noise"]).select(["user_id", "item_id", "ts"])
    pa_csv.write_csv(noise, truth_root / "noise.csv")
    pa_csv.write_csv(broken, truth_root / "broken.csv")
    first = upcoming[0]
    next_items = pa.table({"user_id": user_id[first["user"]], "item_id": item_id[first["item"]]})
    pa_csv.write_csv(next_items.sort_by("user_id"), truth_root / "next.csv")
    pa_csv.write_csv(_best(best, user_id, item_id), truth_root / "best.csv")
    return SyntheticDataset(data_root, truth_root, DATE, users, items, past.num_rows, noise.num_rows, broken.num_rows)


def _events(rng: np.random.Generator, columns: dict[str, Any], user_id: Any, item_id: Any) -> pa.Table:
    at = columns["at"] + _CUTOFF - PAST_DAYS * MICROSECONDS_PER_DAY
    moment = pc.strftime(pa.array(at // 10**6, pa.timestamp("s")), "%Y-%m-%dT%H:%M:%SZ")
    event = np.where(rng.random(len(at)) < 0.7, "purchase", "view")
    return pa.table(
        {
            "user_id": user_id[columns["user"]],
            "item_id": item_id[columns["item"]],
            "ts": moment,
            "event": event,
            "dwell_ms": rng.lognormal(10.0, 0.8, len(at)).astype(np.int64).astype(str),
            "noise": columns["noise"],
        }
    ).sort_by([("ts", "ascending"), ("user_id", "ascending")])


def _broken(rng: np.random.Generator, events: pa.Table) -> pa.Table:
    """Rows that break the contract, about one in 250."""
    rows = events.drop_columns(["noise"]).take(np.sort(rng.choice(len(events), len(events) // 250, replace=False)))
    fault = np.arange(len(rows)) % 4
    for kind, (column, value) in enumerate(
        [("user_id", ""), ("item_id", "item-unknown"), ("event", "teleport"), ("dwell_ms", "-5000")]
    ):
        at = rows.column_names.index(column)
        rows = rows.set_column(at, column, pc.if_else(pa.array(fault == kind), value, rows[column]))
    return rows


def _items(catalogue: _Catalogue, item_id: Any) -> pa.Table:
    price = [f"{price:.2f}" for price in catalogue.price]
    table = {"item_id": item_id, "title": catalogue.title, "category": catalogue.category, "price": price}
    return pa.table(table).sort_by("item_id")


def _instructions(rng: np.random.Generator, state: _Users, user_id: Any) -> pa.Table:
    """Instructions of some users: half state what they like, the others what they want now."""
    names = [name.lower() for name in CATEGORIES]
    says = np.flatnonzero(rng.random(len(user_id)) < INSTRUCTION_SHARE)
    liked = [np.flatnonzero(row) for row in state.cares[says]]
    has_request = np.arange(len(says)) % 2 == 1
    preference = [f"likes {', '.join(names[kind] for kind in kinds)}" for kinds in liked]
    intention = [f"something in {names[rng.choice(kinds)]}" for kinds in liked]
    table = {
        "user_id": user_id[says],
        "arm": [""] * len(says),
        "preference": np.where(has_request, "", preference),
        "intention": np.where(has_request, intention, ""),
    }
    return pa.table(table)


def _best(best: Floats, user_id: Any, item_id: Any) -> pa.Table:
    """The slates of an oracle that knows the model and the state of each user: long format, best first."""
    order = np.argsort(-best, axis=1, kind="stable")[:, :ORACLE_SIZE]
    return pa.table(
        {
            "user_id": np.repeat(user_id, ORACLE_SIZE),
            "rank": np.tile(np.arange(1, ORACLE_SIZE + 1), len(user_id)),
            "item_id": item_id[order].ravel(),
            "probability": np.take_along_axis(best, order, axis=1).ravel(),
        }
    )
