"""Run statistics: counts that describe a run, computed per shard and summed (RUN_STATISTICS).

Counts merge by addition, so the report needs no second pass over the slates, and drift between two runs is computed
from the counts alone (`rayrec.monitoring.drift`).

| statistic             | arm        | key                                            | count                       |
|-----------------------|------------|------------------------------------------------|-----------------------------|
| score                 | arm        | number of a bin of scores (`bin_edges`)        | slate rows                  |
| top score             | arm        | the same, of rank 1                            | slates                      |
| source                | arm        | source/rank band                               | slate rows                  |
| category              | arm        | category                                       | slate rows                  |
| item sample           | arm        | code of one of 512 items of the catalogue      | slate rows, also 0          |
| overlap               | a ~ b      | rbo, top 10 shared, users                      | sums over users             |
| history length        | all        | interactions in the history                    | users                       |
| rule                  | arm        | slate rule                                     | slates that it changed      |
| split                 | arm        | users                                          | participants                |
| new items             | arm        | proposed, slate rows, users                    | slate rows, users           |
| blend                 | arms       | scorer/gain, low, high, users, entered, ...    | see `scorer_gains`          |
| feedback              | arms       | rewarded/date, examination/rank, left out/...  | see `feedback_learning`     |
| denoising reason      | variant    | reason                                         | interactions                |
| removed by event      | variant    | event type/all, event type/removed             | interactions                |
| removed by age        | variant    | age band/all, age band/removed                 | interactions                |
| removed by popularity | variant    | popularity band/all, popularity band/removed   | interactions                |
| repeated              | all        | storage calls, work items                      | repeats of the last attempt |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayrec.data.cutoff_histories import first_row_per_user
from rayrec.denoising.denoiser import REASONS
from rayrec.monitoring.rank_overlap import rank_biased_overlap, shared_by_depth
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.types import Int64s

RUN_STATISTICS = pa.schema(
    [
        pa.field("statistic", pa.string(), nullable=False),
        pa.field("arm", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("count", pa.float64(), nullable=False),
    ]
)
RANK_BANDS = ((1, 1, "1"), (2, 5, "2–5"), (6, 10, "6–10"), (11, 50, "11–50"), (51, 1000, "51 on"))
REPEATED, ALL_ARMS = "repeated", "all"  # statistic of what a failing store made the run do again, and its arm
SPLIT, PARTICIPANTS = "split", "users"  # statistic and key of the participants that each arm serves
_ITEM_SAMPLE, _SAMPLED_ITEMS = "item sample", 512  # from which the coverage of the catalogue is measured
_BINS_PER_OCTAVE, _SMALLEST = 8, -24  # bins of 9%; scores below 2^-24 count as zero


def merge(statistics: Iterable[pa.Table]) -> pa.Table:
    """Sum RUN_STATISTICS tables, sorted by statistic, arm and key.

    A single thread adds them in order: overlaps are fractions, and the order of a floating-point sum changes its bits.
    """
    table = pa.concat_tables([RUN_STATISTICS.empty_table(), *statistics])
    keys = ["statistic", "arm", "key"]
    summed = table.group_by(keys, use_threads=False).aggregate([("count", "sum")])
    ordered = summed.rename_columns([*keys, "count"]).select(RUN_STATISTICS.names)
    return ordered.cast(RUN_STATISTICS).sort_by([(key, "ascending") for key in keys])


def count_statistics(statistic: str, counts: Mapping[str, Mapping[str, float]]) -> pa.Table:
    """RUN_STATISTICS rows of one statistic from counts by arm and key."""
    rows = [
        {"statistic": statistic, "arm": arm, "key": key, "count": float(count)}
        for arm, by_key in counts.items()
        for key, count in by_key.items()
    ]
    return pa.Table.from_pylist(rows, RUN_STATISTICS)


def counts_by_arm(statistics: pa.Table, statistic: str) -> dict[str, dict[str, float]]:
    """The counts of one statistic of a RUN_STATISTICS table: arm -> key -> count."""
    found: dict[str, dict[str, float]] = {}
    for row in statistics.filter(pc.equal(statistics["statistic"], statistic)).to_pylist():
        found.setdefault(row["arm"], {})[row["key"]] = row["count"]
    return found


def participants_by_arm(statistics: pa.Table) -> dict[str, float]:
    """The number of the experiment's participants that each arm serves."""
    return {arm: counts.get(PARTICIPANTS, 0.0) for arm, counts in counts_by_arm(statistics, SPLIT).items()}


def catalogue_coverage(statistics: pa.Table) -> dict[str, float]:
    """The share of the catalogue that each arm shows, measured on a sample of 512 items: exact up to that many items,
    else with a standard error of at most 0.022."""
    counts = counts_by_arm(statistics, _ITEM_SAMPLE)
    return {arm: sum(map(bool, by_code.values())) / len(by_code) for arm, by_code in counts.items()}


def slate_statistics(slates: pa.Table, item_id: pa.Array, category: pa.Array) -> pa.Table:
    """RUN_STATISTICS of one shard's SLATE rows, all arms; `item_id` (sorted), `category`: columns of the catalogue."""
    item = pc.index_in(slates["item_id"].combine_chunks(), item_id).fill_null(-1).to_numpy()
    categories = pc.fill_null(category, "(none)").dictionary_encode()
    item_category = np.append(categories.indices.to_numpy(), -1)[item]  # −1: outside the catalogue
    arms = slates["arm"].combine_chunks().dictionary_encode()
    sources = slates["source"].combine_chunks().dictionary_encode()
    rank = slates["rank"].combine_chunks().to_numpy()
    sample = np.unique(np.linspace(0, max(len(item_id) - 1, 0), min(len(item_id), _SAMPLED_ITEMS)).astype(np.int64))
    bins = _bins(slates["score"].combine_chunks().to_numpy())
    band = np.searchsorted([first for first, _, _ in RANK_BANDS], rank, side="right") - 1
    place = sources.indices.to_numpy() * len(RANK_BANDS) + band
    places = [f"{source}/{name}" for source in sources.dictionary.to_pylist() for _, _, name in RANK_BANDS]
    parts = []
    for code, arm in enumerate(arms.dictionary.to_pylist()):
        of_arm = arms.indices.to_numpy() == code
        known_category = item_category[of_arm & (item_category >= 0)]
        counts = {
            "score": _counts(bins[of_arm], str),
            "top score": _counts(bins[of_arm & (rank == 1)], str),
            "source": _counts(place[of_arm], places.__getitem__),
            _ITEM_SAMPLE: _sampled(item[of_arm], sample),
            "category": _counts(known_category, categories.dictionary.to_pylist().__getitem__),
        }
        parts += [count_statistics(statistic, {arm: by_key}) for statistic, by_key in counts.items()]
    return merge([*parts, count_statistics("overlap", _overlaps(slates, arms, item, rank))])


def history_statistics(denoised: pa.Table) -> pa.Table:
    """RUN_STATISTICS of one shard's DENOISED_HISTORY rows: reasons by variant, and each user's history length."""
    lengths = Ragged.from_arrow(first_row_per_user(denoised)["item"]).lengths
    reasons = {}
    for variant in pc.unique(denoised["variant"]).to_pylist():
        reason = Ragged.from_arrow(denoised.filter(pc.equal(denoised["variant"], variant))["reason"])
        reasons[variant] = _counts(reason.values, REASONS.__getitem__)
    history_length = count_statistics("history length", {"all": _counts(lengths, str)})
    return merge([history_length, count_statistics("denoising reason", reasons)])


def _overlaps(slates: pa.Table, arms: pa.DictionaryArray, item: Int64s, rank: Int64s) -> dict[str, dict[str, float]]:
    """Sums over the users of both arms, for each pair of arms."""
    users = slates["user_id"].combine_chunks().dictionary_encode()
    shape = (len(users.dictionary), int(rank.max(initial=1)))
    rankings = {}
    for code, arm in enumerate(arms.dictionary.to_pylist()):
        of_arm = arms.indices.to_numpy() == code
        rankings[arm] = np.full(shape, -1, np.int64)
        rankings[arm][users.indices.to_numpy()[of_arm], rank[of_arm] - 1] = item[of_arm]
    found = {}
    for a, b in combinations(sorted(rankings), 2):
        both = (rankings[a][:, 0] >= 0) & (rankings[b][:, 0] >= 0)
        one, other = rankings[a][both], rankings[b][both]
        shared = shared_by_depth(one[:, :10], other[:, :10])[:, -1].sum()
        rbo = rank_biased_overlap(one, other).sum()
        found[f"{a} ~ {b}"] = {"users": float(both.sum()), "rbo": float(rbo), "top 10 shared": float(shared)}
    return found


def _counts(codes: npt.NDArray[Any], name: Callable[[int], str]) -> dict[str, float]:
    """Number of occurrences of each code, by name."""
    least = int(codes.min(initial=0))  # the codes are dense, so counting needs no sort
    counted = np.bincount(codes.astype(np.int64) - least)
    return {name(int(code) + least): float(counted[code]) for code in np.flatnonzero(counted)}


def _sampled(codes: Int64s, sample: Int64s) -> dict[str, float]:
    """Number of occurrences of each sampled code (sorted), also of those that do not occur."""
    place = np.minimum(np.searchsorted(sample, codes), max(len(sample) - 1, 0))
    place = place[sample[place] == codes] if len(sample) else place[:0]
    return dict(zip(map(str, sample.tolist()), np.bincount(place, minlength=len(sample)).astype(float), strict=True))


def _bins(score: npt.NDArray[np.float32]) -> Int64s:
    """Bin number of each score: eighths of an octave of |score|, signed, which suits any scale."""
    size = np.log2(np.maximum(np.abs(score.astype(np.float64)), 2.0**_SMALLEST))
    step = np.floor((size - _SMALLEST) * _BINS_PER_OCTAVE)
    return np.asarray(np.where(score < 0, -1 - step, step), np.int64)


def bin_edges(number: int) -> tuple[float, float]:
    """The scores [low, high) of a bin; the two bins next to zero include it."""
    if number < 0:
        low, high = bin_edges(-1 - number)
        return -high, -low
    low, high = (2.0 ** (step / _BINS_PER_OCTAVE + _SMALLEST) for step in (number, number + 1))
    return (low if number else 0.0), high
