"""Measures whether tuning by instruction teaches a small instruct checkpoint to rank the retrievers' candidates.

    python -m benchmarks.text_reranker --data movietweetings --root DIR --check

Everything before a date is known. For users with at least 3 events who consumed one of their first `--depth` candidates
(reciprocal rank fusion of the retrievers) within the horizon after the date: the AUC of each score within these
candidates, the mean over users. Systems:

    untuned       SmolLM2-135M-Instruct (or another --checkpoint) as it is, `pointwise`
    tuned         with an adapter tuned on the horizon before the date, with candidates as of its beginning
    popularity    events of the last day
    characters    character 4-grams: cosine of the candidate with the recency-weighted history
    retrievers    the order in which the candidates come

Nothing of the evaluated horizon is in training. Prompts are packed, so that a user's history is computed once. Tuning
ends after `--minutes` at the latest. Bars: AUC of `tuned` >= .65, and above `untuned`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from benchmarks.plain_recommenders import CutoffSnapshot
from benchmarks.quality import CONF, SETTINGS
from rayrec.blending.content_features import with_content
from rayrec.config import Retrieval, TextTuning, load
from rayrec.data.cutoff_histories import consumed_after, histories_at, is_consumed
from rayrec.data.item_content import item_content
from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.instructions.templates import load_templates
from rayrec.numerics.collectives import Worker
from rayrec.numerics.hashing import hash_strings
from rayrec.numerics.ragged import Ragged
from rayrec.pipeline.interaction_ingest import ingest
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.scorers import item_texts
from rayrec.ray_support import cluster
from rayrec.reranking.text import TEXT_SCORERS, InstructCheckpoint
from rayrec.reranking.text.text_reranker import TextReranker, reciprocal_rank_fusion
from rayrec.reranking.text.text_scorer import TextScorer
from rayrec.reranking.training.text_examples import UserCandidates, packed_prompts, user_candidates
from rayrec.reranking.training.text_tuner import model_with_adapter, prompting_scorer
from rayrec.reranking.training.text_tuning_loop import TextTuningLoop, answer_logits
from rayrec.retrieval.candidates import CandidateStage, Source
from rayrec.retrieval.source_specs import source_specs

BAR = 0.65
SYSTEMS = ("untuned", "tuned", "popularity", "characters", "retrievers")
SHORT = {"prompt_tokens": 512, "item_tokens": 20, "events": 8, "instruction_tokens": 32}
_ROWS = 4  # users scored at a time

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moment:
    """The candidates of users as of a cutoff, and the scores that need no language model."""

    users: list[UserCandidates]
    plain: dict[str, list[Floats]]  # by system, aligned with users


class _Enough(Exception):
    pass


def moment(snapshot: CutoffSnapshot, scorer: TextScorer, horizon_us: int, depth: int, most: int) -> Moment:
    """Users with a consumed candidate within the depth, at most so many, by a hash."""
    context, cutoff = snapshot.context, snapshot.cutoff
    specs = source_specs(Retrieval())
    model = snapshot.fit(specs)
    wanted = consumed_after(snapshot.everything, cutoff, cutoff + horizon_us, context.event_weights)
    known = Ragged.from_arrow(histories_at(snapshot.everything, cutoff)["item"]).lengths
    rows = np.flatnonzero((known >= snapshot.min_events) & (wanted.lengths > 0))
    ids = snapshot.everything["user_id"].combine_chunks().take(pa.array(rows))
    sources = tuple(Source(spec.name, spec.top_k, model.retriever(spec)) for spec in specs)
    available = snapshot.catalogue["available"].combine_chunks().to_numpy(zero_copy_only=False)
    table = CandidateStage("own", sources, available, True, context.event_weights)(snapshot.known(ids))
    order = dict(zip(ids.to_pylist(), rows.tolist(), strict=True))
    own = wanted.take(np.array([order[user] for user in table["user_id"].to_pylist()], np.int64))
    candidate = Ragged.from_arrow(table["candidate"])
    labels = candidate.like(is_consumed(candidate, own).astype(np.int8))
    table = with_content(table, item_content(snapshot.catalogue, ("char",)), ("char",))
    table = table.append_column("consumed", labels.to_arrow(pa.int8()))
    texts = tuple(item_texts(snapshot.catalogue, ("category",)))
    reranker = TextReranker(scorer, texts, texts, "", depth)
    found = {user.user: user for user in user_candidates(table, reranker, cutoff)}
    places, _ = reranker.queries(table)
    fusion = reciprocal_rank_fusion(table).values
    last_day = counts_since(snapshot, cutoff - MICROSECONDS_PER_DAY)
    columns = {
        "popularity": last_day[candidate.values],
        "characters": Ragged.from_arrow(table["content.char"]).values,
        "retrievers": fusion,
    }
    row_of = {user: row for row, user in enumerate(table["user_id"].to_pylist())}
    names = sorted(found)
    names = [names[place] for place in np.argsort(hash_strings(pa.array(names, pa.string())))[:most]]
    plain = {
        system: [values[places[row_of[name]]].astype(np.float64) for name in names]
        for system, values in columns.items()
    }
    return Moment([found[name] for name in names], plain)


def counts_since(snapshot: CutoffSnapshot, start: int) -> Floats:
    """Positive events of each item in [start, cutoff)."""
    item, ts = (Ragged.from_arrow(snapshot.everything[name]).values for name in ("item", "ts"))
    recent = (ts >= start) & (ts < snapshot.cutoff)
    return np.bincount(item[recent], minlength=len(snapshot.item_id)).astype(np.float64)


def language_model_scores(causal: Any, scorer: TextScorer, users: Sequence[UserCandidates]) -> Iterator[Floats]:
    """The log-odds of yes of each user's candidates, in their order."""
    half = len(scorer.ids) // 2
    causal.eval()
    for start in range(0, len(users), _ROWS):
        block = users[start : start + _ROWS]
        rng = np.random.default_rng(0)  # pointwise prompts take no random numbers
        examples = [packed_prompts(scorer.tuning_prompts(user.query, user.consumed.tolist(), rng)) for user in block]
        with torch.inference_mode():
            logits = answer_logits(causal, examples, scorer.ids).double()
        odds = (logits[:, :half].logsumexp(1) - logits[:, half:].logsumexp(1)).numpy()
        ends = np.cumsum([len(user.query.candidates) for user in block])
        yield from np.split(odds, ends[:-1])


def auc(scores: Sequence[Floats], users: Sequence[UserCandidates]) -> Floats:
    """P(a consumed candidate scores above another), ties count half, [users]."""
    out = []
    for values, user in zip(scores, users, strict=True):
        gap = values[user.consumed][:, None] - values[~user.consumed][None, :]
        out.append(float(((gap > 0) + 0.5 * (gap == 0)).mean()))
    return np.array(out)


def interval(values: Floats) -> tuple[float, float]:
    """95% bootstrap of the mean over users."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (2000, len(values)))].mean(1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def tuned(
    folder: str, scorer: TextScorer, users: Sequence[UserCandidates], settings: TextTuning, minutes: float
) -> Any:
    """The model with a tuned adapter. Prints the loss curve."""
    loop = TextTuningLoop(model_with_adapter(folder, settings), scorer, users, settings, Worker())
    begun, cpu = time.monotonic(), time.process_time()

    def after_round(state: TextTuningLoop) -> None:
        row = state.progress.curve[-1]
        print(f"seed {settings.seed}: step {row['step']} / {state.steps}, loss {row['loss']:.3f}", file=sys.stderr)
        if time.monotonic() - begun > 60 * minutes:
            raise _Enough

    try:
        loop.run(after_round)
    except _Enough:
        print("tuning ended by --minutes", file=sys.stderr)
    tokens = sum(row["tokens"] for row in loop.progress.curve)
    print(
        f"tuning: {loop.progress.step} steps, {tokens:,.0f} tokens, {(time.monotonic() - begun) / 60:.1f} minutes, "
        f"{tokens / (time.process_time() - cpu):.0f} tokens a CPU-second; loss of each "
        f"{'round: ' + ', '.join(format(row['loss'], '.3f') for row in loop.progress.curve)}"
    )
    return loop.causal


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", choices=sorted(SETTINGS), default="movietweetings")
    parser.add_argument("--root", required=True)
    parser.add_argument("--checkpoint", default="models/smollm2-135m-instruct")
    parser.add_argument("--date", default="2013-08-04", type=date.fromisoformat)
    parser.add_argument("--users", default=100, type=int, help="users to evaluate")
    parser.add_argument("--train-users", default=400, type=int)
    parser.add_argument("--depth", default=20, type=int)
    parser.add_argument("--layers", default=15, type=int, help="last layers with an adapter")
    parser.add_argument("--learning-rate", default=1e-3, type=float)
    parser.add_argument("--minutes", default=15.0, type=float, help="of tuning, per seed")
    parser.add_argument("--seeds", default=1, type=int)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    setting, checkpoint = SETTINGS[args.data], InstructCheckpoint.open(args.checkpoint)
    scorer = prompting_scorer(
        checkpoint, "pointwise", TEXT_SCORERS["pointwise"].settings_class(**SHORT), load_templates()
    )
    horizon = setting.horizon_days * MICROSECONDS_PER_DAY
    with tempfile.TemporaryDirectory() as folder:
        config = load(CONF / setting.config, [f"data.root={args.root}", f"output.root={folder}"])
        context = RunContext(config, args.date + timedelta(days=setting.horizon_days))  # with what was then consumed
        with cluster.connect(context.config.resources):
            ingest(context)
        now, before = (CutoffSnapshot(context, context.cutoff - back * horizon, 3) for back in (1, 2))
        evaluated = moment(now, scorer, horizon, args.depth, args.users)
        training = moment(before, scorer, horizon, args.depth, args.train_users).users
    print(
        f"{len(training)} users to tune on, {len(evaluated.users)} evaluated, {args.depth} candidates", file=sys.stderr
    )
    found = {system: auc(scores, evaluated.users) for system, scores in evaluated.plain.items()}
    settings = TextTuning(
        max_users=args.train_users, layers=args.layers, learning_rate=args.learning_rate, lora_rank=8, negatives=4
    )
    seeds = []
    for seed in range(args.seeds):
        settings = settings.model_copy(update={"seed": seed})
        if "untuned" not in found:
            fresh = model_with_adapter(args.checkpoint, settings)  # a fresh adapter changes nothing
            found["untuned"] = auc([*language_model_scores(fresh, scorer, evaluated.users)], evaluated.users)
            print(f"untuned {found['untuned'].mean():.3f}", file=sys.stderr)
        causal = tuned(args.checkpoint, scorer, training, settings, args.minutes)
        seeds.append(auc([*language_model_scores(causal, scorer, evaluated.users)], evaluated.users))
    found["tuned"] = np.mean(seeds, axis=0)
    print(f"\nAUC within {args.depth} candidates, {len(evaluated.users)} users, {args.data} {args.date}")
    for system in SYSTEMS:
        low, high = interval(found[system])
        print(f"{system:12}{found[system].mean():>8.3f}   [{low:.3f}, {high:.3f}]")
    low, high = interval(found["tuned"] - found["untuned"])
    tuned_auc, untuned_auc = float(found["tuned"].mean()), float(found["untuned"].mean())
    met = tuned_auc >= BAR and tuned_auc > untuned_auc
    print(
        f"text_reranker {args.data}: tuned {tuned_auc:.3f} (seeds {', '.join(f'{s.mean():.3f}' for s in seeds)}; "
        f"spread {statistics.pstdev(float(s.mean()) for s in seeds):.3f}), untuned {untuned_auc:.3f}, difference "
        f"[{low:+.3f}, {high:+.3f}], popularity {found['popularity'].mean():.3f} (bar {BAR}): "
        f"{'met' if met else 'MISSED'}"
    )
    return 0 if met or not args.check else 1


if __name__ == "__main__":
    sys.exit(main())
