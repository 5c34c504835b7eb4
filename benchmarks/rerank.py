"""Measures reranking throughput in a Ray Data job, against raw `LLM.generate` and `ray.data.llm` on the same prompts.

    python -m benchmarks.rerank --check

Bar: our stage >= 0.95 x raw and >= ray.data.llm, users a second, medians over the seeds, all in one run. Engine start
is excluded: every clock starts when the first tenth of the users (the warm-up) is done. Our clock covers the way from
candidate tables in the object store to reranked tables at the driver; raw, the call to `generate` alone, on prepared
prompts; ray.data.llm, from rows with token ids to rows with scores. There are 100 candidates a user, because raw and
ray.data.llm accept at most 128 a request. All three must give the same scores, up to a constant per user.

The peer's clock favours the peer: users that are in its engine at the end of the warm-up count as done afterwards.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from rayrec.config import Resources, Tuning
from rayrec.data.schemas import MICROSECONDS_PER_DAY, candidate_schema
from rayrec.numerics.ragged import Ragged
from rayrec.ray_support.cluster import connect
from rayrec.ray_support.stage_runner import ActorPoolSpec, WorkItem, append_stage, results, work_item_dataset
from rayrec.reranking.engines.engine import EngineSettings
from rayrec.reranking.engines.vllm_runner import VLLM_ENVIRONMENT, VllmRunner
from rayrec.reranking.item_token import item_lm, item_vocabulary, tuned_checkpoint
from rayrec.reranking.item_token.item_token_ranker import ItemTokenRanker
from rayrec.reranking.item_token.tuned_checkpoint import ModelCard
from rayrec.storage import Storage

BAR_RAW, BAR_PEER = 0.95, 1.0
INSTRUCTION = "Recommend what this user will want next."
PATH, VARIANT, NOW, CANDIDATES, TOKENS = "models/lm/benchmark", "llm", 1_000 * MICROSECONDS_PER_DAY, 100, 256
ARGUMENTS = {  # of the two peers; see ENVIRONMENT.md
    "dtype": "float32",
    "enforce_eager": True,
    "block_size": 32,
    "max_logprobs": 128,
    "max_model_len": TOKENS,
    "enable_prefix_caching": True,
    "disable_log_stats": True,
}
Scores = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Task:
    """What one measurement works on. `shards`: the warm-up, then equal ones."""

    root: str
    users: int
    events: int
    items: int
    threads: int
    seed: int

    @property
    def shards(self) -> list[int]:
        warm = self.users // 10
        return [warm, *(len(part) for part in np.array_split(np.arange(self.users - warm), 8))]

    @property
    def env(self) -> dict[str, str]:
        return {**VLLM_ENVIRONMENT, "OMP_NUM_THREADS": str(self.threads), "VLLM_CPU_KVCACHE_SPACE": "1"}


def publish_model(root: str, items: int, settings: Tuning) -> None:
    """An untuned model: speed does not depend on what the weights are."""
    ids = _item_ids(items)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = item_vocabulary.scratch_tokenizer([INSTRUCTION], ids, items)
        vocab = item_vocabulary.vocabulary_from_tokenizer(tokenizer, items)
        tokenizer.save_pretrained(folder)
        item_lm.build(settings, vocab, TOKENS).export(Path(folder))
        card = ModelCard(vocab, tuple(ids), settings.events, "scratch", "float32", {}, (), 1)
        tuned_checkpoint.publish(Path(folder), card, Storage(root), PATH)


def shard_table(task: Task, shard: int) -> pa.Table:
    """Candidates of one shard's synthetic users, as the retrieve stage passes them on."""
    rng = np.random.default_rng([task.seed, shard])
    count = task.shards[shard]
    lengths = rng.integers(task.events // 4, task.events + 1, count)
    columns: dict[str, Any] = {
        "user_id": [f"{shard}-{user}" for user in range(count)],
        "variant": [VARIANT] * count,
        "item": [rng.integers(0, task.items, n).tolist() for n in lengths],
        "ts": [(NOW - np.sort(rng.integers(1, 90 * MICROSECONDS_PER_DAY, n))[::-1]).tolist() for n in lengths],
        "candidate": [rng.permutation(task.items)[:CANDIDATES].tolist() for _ in range(count)],
        "source": [[0] * CANDIDATES] * count,
        "score.ease": [[0.0] * CANDIDATES] * count,
    }
    return pa.table(columns, schema=candidate_schema(("ease",)))


def catalogue(items: int) -> pa.Table:
    return pa.table({"item_id": _item_ids(items)})


def prompts_of(task: Task, shard: int) -> list[dict[str, Any]]:
    """The same users as token ids: {user, tokens, ids}."""
    local = tuned_checkpoint.fetch_checkpoint(Storage(task.root), PATH)
    layout = local.layout(INSTRUCTION, TOKENS)
    table = shard_table(task, shard)
    prompts = layout.prompts(Ragged.from_arrow(table["item"]), Ragged.from_arrow(table["ts"]), NOW)
    first = layout.vocabulary.first_item
    return [
        {"user": user, "tokens": prompts[row].tolist(), "ids": [first + code for code in codes]}
        for row, (user, codes) in enumerate(
            zip(table["user_id"].to_pylist(), table["candidate"].to_pylist(), strict=True)
        )
    ]


class _Table:
    """Stage: the shard's candidates."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def __call__(self, item: WorkItem, table: pa.Table) -> pa.Table:
        return shard_table(self._task, item.shard)


class _Ours:
    """Stage, as an actor: the rerank stage of the daily job."""

    def __init__(self, task: Task) -> None:
        local = tuned_checkpoint.fetch_checkpoint(Storage(task.root), PATH)
        engine = VllmRunner(local.model_files, "hidden_state", EngineSettings(threads=task.threads))
        self._rerank = ItemTokenRanker(engine, local, catalogue(task.items), INSTRUCTION, NOW)

    def __call__(self, item: WorkItem, table: pa.Table) -> pa.Table:
        out = self._rerank(table)
        return out.append_column("done", pa.array(np.full(out.num_rows, time.time())))


def ours(task: Task) -> tuple[float, Scores]:
    """(users a second, scores by user)."""
    items = [WorkItem(NOW, shard) for shard in range(len(task.shards))]
    dataset = append_stage(work_item_dataset(items), _Table, task)
    # One CPU stays free: each block is packed by a task before it reaches the actor.
    pool = ActorPoolSpec(1, max(1, task.threads - 1), 0, tuple(task.env.items()))
    tables = list(results(append_stage(dataset.materialize(), _Ours, task, pool=pool)))
    end = time.time()
    warm = next(table for table in tables if table["shard"][0].as_py() == 0)
    scores = {
        user: np.array(row, np.float32)
        for table in tables
        for user, row in zip(table["user_id"].to_pylist(), table["llm_score"].to_pylist(), strict=True)
    }
    return (task.users - task.shards[0]) / (end - warm["done"][0].as_py()), scores


def raw(task: Task) -> tuple[float, Scores]:
    @ray.remote(num_cpus=task.threads, runtime_env={"env_vars": task.env}, max_calls=1)
    def measure() -> tuple[float, Scores]:
        from vllm import LLM, SamplingParams

        llm = LLM(model=tuned_checkpoint.fetch_checkpoint(Storage(task.root), PATH).folder, seed=0, **ARGUMENTS)
        rows = [row for shard in range(len(task.shards)) for row in prompts_of(task, shard)]
        prompts = [{"prompt_token_ids": row["tokens"]} for row in rows]
        params = [
            SamplingParams(max_tokens=1, temperature=0, logprob_token_ids=row["ids"], detokenize=False) for row in rows
        ]
        warm = task.shards[0]
        answers = llm.generate(prompts[:warm], params[:warm], use_tqdm=False)
        start = time.time()
        answers += llm.generate(prompts[warm:], params[warm:], use_tqdm=False)
        speed = (len(rows) - warm) / (time.time() - start)
        return speed, {
            row["user"]: np.array([answer.outputs[0].logprobs[0][token].logprob for token in row["ids"]], np.float32)
            for row, answer in zip(rows, answers, strict=True)
        }

    found: tuple[float, Scores] = ray.get(measure.remote())
    return found


def peer(task: Task) -> tuple[float, Scores]:
    """ray.data.llm. `placement_group_config` without a GPU is what lets its vLLM stage run on CPU."""
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    env = {key: value for key, value in task.env.items() if key != "VLLM_ENABLE_V1_MULTIPROCESSING"}  # AsyncLLM forks
    config = vLLMEngineProcessorConfig(
        model_source=tuned_checkpoint.fetch_checkpoint(Storage(task.root), PATH).folder,
        engine_kwargs=dict(ARGUMENTS),
        batch_size=128,
        concurrency=1,
        max_concurrent_batches=4,
        tokenize_stage=False,
        chat_template_stage=False,
        detokenize_stage=False,
        log_engine_metrics=False,
        placement_group_config={"bundles": [{"CPU": 1}]},
        runtime_env={"env_vars": env},
    )
    processor = build_processor(config, preprocess=_to_peer, postprocess=_from_peer)
    rows = [row for shard in range(len(task.shards)) for row in prompts_of(task, shard)]
    out = processor(ray.data.from_items(rows, override_num_blocks=max(1, len(rows) // 128))).take_all()
    done = np.sort([row["done"] for row in out])
    warm = task.shards[0]
    speed = (len(rows) - warm) / (done[-1] - done[warm - 1])
    return float(speed), {row["user"]: np.array(row["scores"], np.float32) for row in out}


def _to_peer(row: dict[str, Any]) -> dict[str, Any]:
    sampling = {"max_tokens": 1, "temperature": 0.0, "logprob_token_ids": row["ids"], "detokenize": False}
    return {
        "prompt": "",
        "tokenized_prompt": row["tokens"],
        "sampling_params": sampling,
        "ids": row["ids"],
        "user": row["user"],
    }


def _from_peer(row: dict[str, Any]) -> dict[str, Any]:
    found = row["logprobs"][0]
    return {"user": row["user"], "scores": [found[token]["logprob"] for token in row["ids"]], "done": time.time()}


def largest_difference(left: Scores, right: Scores) -> float:
    """Between two engines' scores, without each user's constant."""
    return max(float(np.abs((left[user] - left[user][0]) - (right[user] - right[user][0])).max()) for user in left)


def _item_ids(items: int) -> list[str]:
    return [f"i{code:07}" for code in range(items)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--users", type=int, default=4_000)
    parser.add_argument("--events", type=int, default=50)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--check", action="store_true", help="exit with 1 below the bar")
    given = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    settings = Tuning(
        layers=given.layers,
        width=given.width,
        heads=given.width // 32,
        feedforward=3 * given.width,
        events=given.events,
    )
    rows = []
    with tempfile.TemporaryDirectory() as root, connect(Resources()):
        publish_model(root, given.items, settings)
        for seed in given.seeds:
            task = Task(root, given.users, given.events, given.items, given.threads, seed)
            (us, mine), (base, theirs), (other, others) = ours(task), raw(task), peer(task)
            error = max(largest_difference(mine, theirs), largest_difference(mine, others))
            rows.append((seed, us, base, other, error))
            print(f"seed {seed} done", file=sys.stderr)
    return report(rows, given.check)


def report(rows: list[tuple[int, float, float, float, float]], check: bool) -> int:
    """The table, the summary line, and the exit status."""
    print(f"{'seed':>4} {'ours':>10} {'raw':>10} {'ray.data.llm':>13} {'difference':>11}   users a second")
    for seed, us, base, other, error in rows:
        print(f"{seed:>4} {us:>10,.0f} {base:>10,.0f} {other:>13,.0f} {error:>11.1e}")
    us, base, other = (float(np.median([row[k] for row in rows])) for k in (1, 2, 3))
    worst = max(row[4] for row in rows)
    good = us >= BAR_RAW * base and us >= BAR_PEER * other and worst < 1e-3
    print(
        f"rerank: ours {us:,.0f} users/s = {us / base:.2f} x raw LLM.generate (bar {BAR_RAW}), "
        f"{us / other:.2f} x ray.data.llm (bar {BAR_PEER}), scores within {worst:.0e}: {'met' if good else 'NOT MET'}"
    )
    return 1 if check and not good else 0


if __name__ == "__main__":
    sys.exit(main())
