"""Measures what scoring with a checkpoint costs: users and tokens per CPU-second, prefix cache, share of the limit.

    python -m benchmarks.checkpoint_cost --root DIR

Users with histories and 20 candidates of random films (movies.dat of movietweetings) are scored by pointwise, pairwise
and listwise on one engine, with one thread, after a first user. The limit: products of the size of the model's own,
1,024 tokens at a time, in this data type. FLOP of a computed token: 2 x weights without embeddings (attention is not
counted).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rayrec.instructions.templates import load_templates
from rayrec.numerics.threads import thread_limit
from rayrec.reranking.engines.engine import EngineSettings, Failure, take_work
from rayrec.reranking.text import TEXT_SCORERS, InstructCheckpoint, RankingQuery
from rayrec.reranking.text.text_scorer import start_engine

SETTINGS: dict[str, dict[str, Any]] = {"pointwise": {}, "listwise": {"permutations": 4}, "pairwise": {"top": 8}}
SHORT = {"prompt_tokens": 1024, "item_tokens": 20, "events": 8, "instruction_tokens": 32}
CANDIDATES, EVENTS = 20, 8


def queries(root: Path, users: int) -> list[RankingQuery]:
    lines = (root / "movies.dat").read_text(encoding="utf8").splitlines()
    titles = [f"{title} ({kinds})" for _, title, kinds in (line.split("::") for line in lines)]
    rng = np.random.default_rng(0)
    drawn = [[titles[at] for at in rng.choice(len(titles), EVENTS + CANDIDATES, replace=False)] for _ in range(users)]
    return [RankingQuery("", tuple(row[:EVENTS]), tuple(row[EVENTS:])) for row in drawn]


def gflop_per_token(config: dict[str, Any]) -> float:
    width, layers, heads = config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]
    head = config.get("head_dim") or width // heads
    query, key = heads * head, config["num_key_value_heads"] * head
    weights = layers * (2 * width * query + 2 * width * key + 3 * width * config["intermediate_size"])
    return float(2 * weights / 1e9)


def matmul_limit(width: int, feedforward: int, dtype: torch.dtype, tokens: int = 1024) -> float:
    """GFLOP a CPU-second."""
    left, right = torch.randn(tokens, width).to(dtype), torch.randn(feedforward, width).to(dtype)
    best = np.inf
    for _ in range(5):
        begun = time.process_time()
        for _ in range(10):
            left @ right.T
        best = min(best, time.process_time() - begun)
    return 10 * 2 * tokens * width * feedforward / best / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", required=True, type=Path)
    parser.add_argument("--checkpoint", default="models/smollm2-135m-instruct")
    parser.add_argument("--users", default=20, type=int)
    parser.add_argument("--engine", default="vllm")
    parser.add_argument("--dtype", default="bfloat16")
    args = parser.parse_args()
    checkpoint = InstructCheckpoint.open(args.checkpoint)
    config = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf8"))
    with thread_limit(1):
        limit = matmul_limit(config["hidden_size"], config["intermediate_size"], getattr(torch, args.dtype))
        print(f"matmul limit, {args.dtype}: {limit:.0f} GFLOP a CPU-second", flush=True)
        settings = EngineSettings(dtype=args.dtype, threads=1)
        engine = start_engine(args.engine, checkpoint, settings, SHORT["prompt_tokens"])
        asked = queries(args.root, args.users + 1)
        for method, more in SETTINGS.items():
            found = TEXT_SCORERS[method]
            scorer = found(engine, checkpoint, found.settings_class(**SHORT, **more), load_templates())
            scorer.score(asked[:1])
            take_work()
            begun, clock = time.process_time(), time.monotonic()
            answers = scorer.score(asked[1:])
            spent, took = time.process_time() - begun, time.monotonic() - clock
            (work,) = take_work().values()
            computed = work.prompt_tokens - work.cached_tokens
            speed, failed = computed / spent, sum(isinstance(each, Failure) for each in answers)
            print(
                f"{method:10} {args.users} users ({failed} failed), {work.prompts:,} prompts, "
                f"{work.prompt_tokens:,} tokens, {work.cached_tokens / work.prompt_tokens:.0%} from the prefix cache: "
                f"{args.users / spent:.2f} users, {speed:,.0f} computed and {work.prompt_tokens / spent:,.0f} prompt "
                f"tokens a CPU-second, {speed * gflop_per_token(config) / limit:.0%} of the limit ({took:.0f} s)",
                flush=True,
            )


if __name__ == "__main__":
    main()
