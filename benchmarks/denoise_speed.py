"""Measures speed and exactness of influence denoising, against refits and against a closed form in plain numpy.

python -m benchmarks.denoise_speed --check

Bar: 1 M events/s at d = 64 with 50 events a user on 2 cores (two processes, as the daily job runs shards side by side).
This includes self-consistency, negative influence, hard negatives, ranks and the removal budget. Exactness: the largest
difference from refits without each event, in float32 (1e-6) and float64 (1e-10). The peer is the same closed form, user
by user, in numpy.

`--device cuda` measures one process on a GPU instead (`--device cpu`: the same code on one CPU thread): events/s, and
the floating-point operations of the solves as a share of what the device reaches in one large matrix product. It has
not been run on a GPU yet.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from threadpoolctl import threadpool_limits

from rayrec.denoising import Histories
from rayrec.denoising.ridge_influence import InfluenceDenoiser, InfluenceSettings
from rayrec.numerics.ragged import Ragged
from rayrec.numerics.ridge_blocks import single_thread

BAR, BAR_FLOAT32, BAR_FLOAT64 = 1e6, 1e-6, 1e-10
ITEMS, WIDTH, EVENTS = 2_000, 64, 50


def model(seed: int, dtype: Literal["float32", "float64"] = "float32") -> InfluenceDenoiser:
    random = np.random.default_rng([seed, 1])
    factors = (random.normal(size=(ITEMS, WIDTH)) * 0.3).astype(np.float32)
    return InfluenceDenoiser(factors, random.integers(1, 1000, ITEMS), InfluenceSettings(dtype=dtype))


def histories(users: int, seed: int) -> Histories:
    total = users * EVENTS
    items = np.random.default_rng([seed, 2]).integers(0, ITEMS, total).astype(np.int32)
    item = Ragged.from_lengths(items, np.full(users, EVENTS))
    return Histories(
        item=item,
        ts=item.like(np.arange(total)),
        weight=item.like(np.ones(total, np.float32)),
        value=item.like(np.full(total, np.nan, np.float32)),
        dwell_ms=item.like(np.full(total, -1, np.int32)),
    )


def decide_seconds(users: int, seed: int, at: float) -> tuple[float, float, float]:
    """Wall-clock start and end of the decisions, and their CPU seconds. Loads everything first and starts at `at`."""
    method, whole = model(seed), histories(users, seed)
    method.decide(histories(200, seed + 1))
    time.sleep(max(0.0, at - time.time()))
    start, cpu = time.time(), time.process_time()
    method.decide(whole)
    return start, time.time(), time.process_time() - cpu


def events_per_second(users: int, seed: int, processes: int) -> tuple[float, float]:
    """By the clock, all processes together; and per CPU second, which a busy machine does not hide."""
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(decide_seconds, [10] * processes, [seed] * processes, [time.time()] * processes))  # imports
        at = time.time() + 2 + users / 20_000
        share = users // processes
        spans = list(pool.map(decide_seconds, [share] * processes, range(seed, seed + processes), [at] * processes))
    events = share * processes * EVENTS
    clock = max(end for _, end, _ in spans) - min(start for start, _, _ in spans)
    return events / clock, events / sum(cpu for _, _, cpu in spans)


def on_device(users: int, seed: int, device: torch.device) -> str:
    """Events/s of the decisions, and how far they are from the device's matrix products, in words."""
    method, whole = model(seed).to(device), histories(users, seed)
    method.decide(histories(200, seed + 1))
    start = time.perf_counter()
    method.decide(whole)  # its results are on the CPU, so nothing is pending afterwards
    speed = users * EVENTS / (time.perf_counter() - start)
    solve = 2 * EVENTS**2 * WIDTH + EVENTS**3  # of a user: W W', Cholesky factor and inverse
    share = speed / EVENTS * solve / matmul_operations_per_second(device)
    return f"{speed / 1e6:.2f} M events/s on {device}, {share:.1%} of its matrix products in float32"


def matmul_operations_per_second(device: torch.device) -> float:
    size = 8192 if device.type == "cuda" else 2048
    a = torch.rand(size, size, device=device)
    (a @ a)[0, 0].item()
    start = time.perf_counter()
    (a @ a)[0, 0].item()  # waits for the product
    return 2 * size**3 / (time.perf_counter() - start)


def numpy_events_per_second(users: int, seed: int) -> float:
    """The peer, per CPU second: self-consistency alone, one user after another."""
    v = (np.random.default_rng([seed, 1]).normal(size=(ITEMS, WIDTH)) * 0.3).astype(np.float32)
    shared = 10 * np.eye(WIDTH, dtype=np.float32) + np.float32(0.1) * v.T @ v
    item = histories(users, seed).item
    start = time.process_time()
    with threadpool_limits(1):
        for row in range(users):
            own = v[item[row]]
            solved = np.linalg.solve(shared + own.T @ own, own.T)
            h, y = (own * solved.T).sum(1), own @ solved.sum(1)
            _ = (y - h) / (1 - h)
    return users * EVENTS / (time.process_time() - start)


def largest_error(users: int, seed: int, dtype: Literal["float32", "float64"]) -> float:
    """Of self-consistency, against solving each user's block again without each event, in float64."""
    method, item = model(seed, dtype), histories(users, seed).item
    found, _ = method.measure(item, np.ones(len(item.values), np.bool_))
    v: npt.NDArray[np.float64] = (np.random.default_rng([seed, 1]).normal(size=(ITEMS, WIDTH)) * 0.3).astype(np.float32)
    v = v.astype(np.float64)
    shared = method.settings.regularization * np.eye(WIDTH) + method.settings.alpha0 * v.T @ v
    worst = 0.0
    for row in range(users):
        own = v[item[row]]
        for event in range(EVENTS):
            others = np.delete(own, event, axis=0)
            without = own[event] @ np.linalg.solve(shared + others.T @ others, others.sum(0))
            worst = max(worst, abs(without - float(found[row * EVENTS + event])))
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--users", type=int, default=40_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--check", action="store_true", help="exit with 1 below the bar")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="one process on this device, without a bar")
    given = parser.parse_args()
    if given.device:
        with single_thread():
            for seed in given.seeds:
                print(f"denoise_speed: {on_device(given.users, seed, torch.device(given.device))}")
        return 0
    rows = []
    for seed in given.seeds:
        speed, core = events_per_second(given.users, seed, given.processes)
        peer = numpy_events_per_second(2_000, seed)
        rows.append((seed, speed, core, peer, largest_error(8, seed, "float32"), largest_error(8, seed, "float64")))
        print(f"seed {seed} done", file=sys.stderr)
    print(f"{'seed':>4} {'events/s':>12} {'per CPU s':>12} {'numpy, CPU s':>14} {'error f32':>10} {'error f64':>10}")
    for seed, speed, core, peer, single, double in rows:
        print(f"{seed:>4} {speed:>12,.0f} {core:>12,.0f} {peer:>14,.0f} {single:>10.1e} {double:>10.1e}")
    speed = float(np.median([row[1] for row in rows]))
    single, double = max(row[4] for row in rows), max(row[5] for row in rows)
    core = float(np.median([row[2] for row in rows]))
    good = speed >= BAR and single <= BAR_FLOAT32 and double <= BAR_FLOAT64
    print(
        f"denoise_speed: {speed / 1e6:.2f} M events/s (bar {BAR / 1e6:.0f}) in {given.processes} processes, d={WIDTH}, "
        f"{core / 1e6:.2f} M per CPU second, "
        f"error {single:.0e} float32, {double:.0e} float64: {'ok' if good else 'BELOW THE BAR'}"
    )
    return 1 if given.check and not good else 0


if __name__ == "__main__":
    sys.exit(main())
