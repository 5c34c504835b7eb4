"""What the report knows of a run: counts, summed shard by shard, small whatever the number of users.

Each shard gives one SUMMARY table; sums of counts merge, so a million users' report costs no second pass over their
slates, and a run can be compared with an earlier one (`rayrec.monitoring.drift`) from the counts alone.

| quantity       | arm        | key                                      | count                       |
|----------------|------------|------------------------------------------|-----------------------------|
| score          | arm        | number of a bin of scores (`bin_edges`)  | slate rows                  |
| top score      | arm        | the same, of rank 1                      | slates                      |
| source         | arm        | source/rank band                         | slate rows                  |
| category       | arm        | category                                 | slate rows                  |
| overlap        | a ~ b      | rbo, top 10 shared, users                | sums over users             |
| history length | all        | events in the history                    | users                       |
| rule           | arm        | rule of slates                           | slates that it changed      |
| split          | arm        | users                                    | users who take part         |
| verdict        | variant    | reason                                   | events                      |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.cutoff_histories import first_row_per_user
from rayrec.denoising.denoiser import REASONS
from rayrec.numerics.ragged import Ragged

Ints = npt.NDArray[np.int64]

RUN_STATISTICS = pa.schema(
    [
        pa.field("quantity", pa.string(), nullable=False),
        pa.field("arm", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("count", pa.float64(), nullable=False),
    ]
)
RANK_BANDS = ((1, 1, "1"), (2, 5, "2–5"), (6, 10, "6–10"), (11, 50, "11–50"), (51, 1000, "51 on"))
_PERSISTENCE = 0.9  # of RBO: 86% of the weight on the top 10 (Webber et al. 2010, eq. 21)
_BINS_PER_OCTAVE, _SMALLEST = 8, -24  # bins of 9%; scores below 2^-24 are as good as zero


def merge(summaries: Iterable[pa.Table]) -> pa.Table:
    """The sum of SUMMARY tables, sorted by quantity, arm, key: added in their order by one thread, since overlaps are
    fractions, and a sum of fractions that threads share is not the same twice."""
    table = pa.concat_tables([RUN_STATISTICS.empty_table(), *summaries])
    grouped = table.group_by(["quantity", "arm", "key"], use_threads=False).aggregate([("count", "sum")])
    ordered = grouped.rename_columns(["quantity", "arm", "key", "count"]).select(RUN_STATISTICS.names)
    return ordered.cast(RUN_STATISTICS).sort_by([("quantity", "ascending"), ("arm", "ascending"), ("key", "ascending")])


def slate_statistics(slates: pa.Table, item_id: pa.Array, category: pa.Array) -> pa.Table:
    """SUMMARY of one shard's SLATE rows, all arms; `item_id` (sorted) and `category` are columns of the catalogue."""
    item = pc.index_in(slates["item_id"].combine_chunks(), item_id).fill_null(-1).to_numpy()
    kinds = pc.fill_null(category, "(none)").dictionary_encode()
    kind = np.append(kinds.indices.to_numpy(), -1)[item]  # code −1 reads the last: an item without a row
    arms = slates["arm"].combine_chunks().dictionary_encode()
    sources = slates["source"].combine_chunks().dictionary_encode()
    rank = slates["rank"].combine_chunks().to_numpy()
    bins = _bins(slates["score"].combine_chunks().to_numpy())
    band = np.searchsorted([first for first, _, _ in RANK_BANDS], rank, side="right") - 1
    place = sources.indices.to_numpy() * len(RANK_BANDS) + band
    places = [f"{source}/{name}" for source in sources.dictionary.to_pylist() for _, _, name in RANK_BANDS]
    parts = []
    for code, arm in enumerate(arms.dictionary.to_pylist()):
        of_arm = arms.indices.to_numpy() == code
        parts += [
            _counts("score", arm, bins[of_arm], str),
            _counts("top score", arm, bins[of_arm & (rank == 1)], str),
            _counts("source", arm, place[of_arm], places.__getitem__),
            _counts("category", arm, kind[of_arm & (kind >= 0)], kinds.dictionary.to_pylist().__getitem__),
        ]
    return merge([*parts, *_overlaps(slates, arms, item, rank)])


def history_statistics(denoised: pa.Table) -> pa.Table:
    """SUMMARY of DENOISED_HISTORY rows of one shard: reasons per variant, and history lengths, of each user once."""
    lengths = Ragged.from_arrow(first_row_per_user(denoised)["item"]).lengths
    parts = [_counts("history length", "all", lengths, str)]
    for variant in pc.unique(denoised["variant"]).to_pylist():
        reason = Ragged.from_arrow(denoised.filter(pc.equal(denoised["variant"], variant))["reason"])
        parts.append(_counts("verdict", variant, reason.values, REASONS.__getitem__))
    return merge(parts)


def counts_by_arm(summary: pa.Table, quantity: str) -> dict[str, dict[str, float]]:
    """The counts of one quantity of a SUMMARY table: arm -> key -> count."""
    found: dict[str, dict[str, float]] = {}
    for row in summary.filter(pc.equal(summary["quantity"], quantity)).to_pylist():
        found.setdefault(row["arm"], {})[row["key"]] = row["count"]
    return found


def rbo(first: Ints, second: Ints, p: float = _PERSISTENCE) -> npt.NDArray[np.float64]:
    """Extrapolated rank-biased overlap of each row's two rankings, [users] in [0, 1] (Webber et al. 2010, eq. 32, for
    lists of equal depth). int64 [users, depth] item codes, best first, −1 past the end of a short list."""
    agreement = _shared_by_depth(first, second) / np.arange(1, first.shape[1] + 1)
    depth = first.shape[1]
    weights = (1 - p) * p ** np.arange(depth)
    return np.asarray(agreement @ weights + agreement[:, -1] * p**depth)


def _shared_by_depth(first: Ints, second: Ints) -> npt.NDArray[np.float64]:
    """How many items the top d of both share, for d = 1..depth: [users, depth]."""
    users, depth = first.shape
    span = max(int(first.max(initial=0)), int(second.max(initial=0))) + 1
    base = np.arange(users)[:, None] * span
    one, other = (np.flatnonzero(ranking.ravel() >= 0) for ranking in (first, second))
    keys_one, keys_other = ((base + ranking).ravel()[at] for ranking, at in ((first, one), (second, other)))
    _, left, right = np.intersect1d(keys_one, keys_other, assume_unique=True, return_indices=True)
    met = np.maximum(one[left] % depth, other[right] % depth)  # the depth at which both have shown the item
    shared = np.bincount(one[left] // depth * depth + met, minlength=users * depth).reshape(users, depth)
    return np.asarray(np.cumsum(shared, axis=1), np.float64)


def _overlaps(slates: pa.Table, arms: pa.DictionaryArray, item: Ints, rank: Ints) -> list[pa.Table]:
    users = slates["user_id"].combine_chunks().dictionary_encode()
    shape = (len(users.dictionary), int(rank.max(initial=1)))
    rankings = {}
    for code, arm in enumerate(arms.dictionary.to_pylist()):
        of_arm = arms.indices.to_numpy() == code
        rankings[arm] = np.full(shape, -1, np.int64)
        rankings[arm][users.indices.to_numpy()[of_arm], rank[of_arm] - 1] = item[of_arm]
    found = []
    for a, b in combinations(sorted(rankings), 2):
        both = (rankings[a][:, 0] >= 0) & (rankings[b][:, 0] >= 0)
        one, other = rankings[a][both], rankings[b][both]
        top = _shared_by_depth(one[:, :10], other[:, :10])[:, -1].sum()
        sums = {"users": float(both.sum()), "rbo": float(rbo(one, other).sum()), "top 10 shared": float(top)}
        columns = {"quantity": ["overlap"] * 3, "arm": [f"{a} ~ {b}"] * 3}
        found.append(pa.table({**columns, "key": list(sums), "count": list(sums.values())}, RUN_STATISTICS))
    return found


def _counts(quantity: str, arm: str, codes: npt.NDArray[Any], name: Callable[[int], str]) -> pa.Table:
    """How often each code occurs, under its name."""
    least = int(codes.min(initial=0))  # all codes lie close together, so that counting needs no sort
    counted = np.bincount(codes.astype(np.int64) - least)
    code = np.flatnonzero(counted)
    keys, count = [name(int(value) + least) for value in code], counted[code]
    columns = {"quantity": [quantity] * len(keys), "arm": [arm] * len(keys), "key": keys}
    return pa.table({**columns, "count": count.astype(np.float64)}, RUN_STATISTICS)


def _bins(score: npt.NDArray[np.float32]) -> Ints:
    """The number of each score's bin: eighths of an octave of |score|, signed, so that any scale keeps its shape."""
    size = np.log2(np.maximum(np.abs(score.astype(np.float64)), 2.0**_SMALLEST))
    step = np.floor((size - _SMALLEST) * _BINS_PER_OCTAVE)
    return np.asarray(np.where(score < 0, -1 - step, step), np.int64)


def bin_edges(number: int) -> tuple[float, float]:
    """The scores [low, high) of a bin; the two bins beside zero reach to zero."""
    if number < 0:
        low, high = bin_edges(-1 - number)
        return -high, -low
    low, high = (2.0 ** (step / _BINS_PER_OCTAVE + _SMALLEST) for step in (number, number + 1))
    return (low if number else 0.0), high
