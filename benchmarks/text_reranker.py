"""Measures whether tuning by instruction teaches a small instruct checkpoint to rank the retrievers' candidates.

    python -m benchmarks.text_reranker --data movietweetings --root DIR --check

Everything before a date is known. For users with at least 3 events who consumed one of their first `--depth` candidates
(reciprocal rank fusion of the retrievers) within the horizon after the date: the AUC of each score within these
candidates, the mean over users. Systems:

    untuned       SmolLM2-135M-Instruct (or another --checkpoint) as it is, `pointwise`
    tuned         with an adapter tuned on a horizon that ends one horizon before the date
    popularity    events of the last day
    characters    character 4-grams: cosine of the candidate with the recency-weighted history
    retrievers    the order in which the candidates come

Then nDCG@10 of the blend with and without the tuned reranker, over all candidates: as in the job, its weights are
learned on the horizon before the date, which the adapter, tuned on the one before that, does not know.

Prompts are packed, so that a user's history is computed once. Tuning ends after `--minutes` at the latest. Bars: AUC of
`tuned` >= .65, and above `untuned`; nDCG@10 with it not below without it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from benchmarks.in_process import without_ray
from benchmarks.plain_recommenders import CutoffSnapshot
from benchmarks.quality import CONF, SETTINGS
from rayrec.blending.blend_features import ItemFeatures
from rayrec.blending.blend_fitting import TrainingWindow, fit_blender
from rayrec.blending.content_features import with_content
from rayrec.config import Retrieval, TextTuning, load
from rayrec.data.cutoff_histories import consumed_after, histories_at, is_consumed
from rayrec.data.item_content import item_content
from rayrec.data.schemas import CONTENT, MICROSECONDS_PER_DAY
from rayrec.instructions.templates import load_templates
from rayrec.numerics.collectives import Worker
from rayrec.numerics.hashing import hash_strings
from rayrec.numerics.ragged import Ragged
from rayrec.pipeline.interaction_ingest import ingest
from rayrec.pipeline.item_model_fitting import item_features
from rayrec.pipeline.run_context import RunContext
from rayrec.pipeline.scorers import item_texts
from rayrec.reranking.text import TEXT_SCORERS, InstructCheckpoint
from rayrec.reranking.text.text_reranker import TextReranker, reciprocal_rank_fusion
from rayrec.reranking.text.text_scorer import TextScorer
from rayrec.reranking.training.text_examples import UserCandidates, packed_prompts, user_candidates
from rayrec.reranking.training.text_tuner import model_with_adapter, prompting_scorer
from rayrec.reranking.training.text_tuning_loop import TextTuningLoop, answer_logits
from rayrec.retrieval.candidates import CandidateStage, Source
from rayrec.retrieval.item_statistics import NAMES
from rayrec.retrieval.source_specs import source_specs

BAR = 0.65
SYSTEMS = ("untuned", "tuned", "popularity", "characters", "retrievers")
SHORT = {"prompt_tokens": 512, "item_tokens": 20, "events": 8, "instruction_tokens": 32}
_ROWS = 4  # users scored at a time
_CAP = 10  # ranks that the reranker may lift an item: `rerank.max_promotion` of text rerankers

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moment:
    """The candidates of users as of a cutoff, and the scores that need no language model."""

    users: list[UserCandidates]
    plain: dict[str, list[Floats]]  # by system, aligned with users
    table: pa.Table  # candidates of these users, with content features
    places: Ragged  # of each user's scored candidates among the table's flat ones
    consumed: Ragged  # int32 item codes: what the users consumed
    items: ItemFeatures

    def window(self, odds: Sequence[Floats] | None = None) -> TrainingWindow:
        """For the blender, with the reranker's scores."""
        candidate = Ragged.from_arrow(self.table["candidate"])
        table = self.table
        if odds is not None:
            scores = np.full(len(candidate.values), np.nan, np.float32)
            scores[self.places.values] = np.concatenate(odds)
            table = table.append_column("llm_score", candidate.like(scores).to_arrow(pa.float32()))
        return TrainingWindow(table, candidate.like(is_consumed(candidate, self.consumed)), self.items)


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
    features = context.config.blend.content_features
    table = with_content(table, item_content(snapshot.catalogue), features)
    texts = tuple(item_texts(snapshot.catalogue, ("category",)))
    reranker = TextReranker(scorer, texts, texts, "", depth)

    def labelled(table: pa.Table) -> tuple[pa.Table, Ragged]:
        own = wanted.take(np.array([order[user] for user in table["user_id"].to_pylist()], np.int64))
        candidate = Ragged.from_arrow(table["candidate"])
        labels = candidate.like(is_consumed(candidate, own).astype(np.int8))
        return table.append_column("consumed", labels.to_arrow(pa.int8())), own

    usable = {user.user for user in user_candidates(labelled(table)[0], reranker, cutoff)}
    names = table["user_id"].combine_chunks()
    by_hash = np.argsort(hash_strings(names), kind="stable")
    chosen = [row for row in by_hash.tolist() if names[row].as_py() in usable][:most]
    table = table.take(pa.array(chosen)).combine_chunks()
    asked, own = labelled(table)
    places, _ = reranker.queries(table)
    candidate = Ragged.from_arrow(table["candidate"])
    columns = {
        "popularity": counts_since(snapshot, cutoff - MICROSECONDS_PER_DAY)[candidate.values],
        "characters": Ragged.from_arrow(table[f"{CONTENT}char"]).values,
        "retrievers": reciprocal_rank_fusion(table).values,
    }
    plain = {
        system: [values[places[row]].astype(np.float64) for row in range(len(table))]
        for system, values in columns.items()
    }
    return Moment(user_candidates(asked, reranker, cutoff), plain, table, places, own, item_features(model))


def counts_since(snapshot: CutoffSnapshot, start: int) -> Floats:
    """Positive events of each item in [start, cutoff)."""
    item, ts = (Ragged.from_arrow(snapshot.everything[name]).values for name in ("item", "ts"))
    recent = (ts >= start) & (ts < snapshot.cutoff)
    return np.bincount(item[recent], minlength=len(snapshot.item_id)).astype(np.float64)


def language_model_scores(
    causal: Any, scorer: TextScorer, users: Sequence[UserCandidates], kept: Path | None = None
) -> list[Floats]:
    """The log-odds of yes of each user's candidates, in their order. `kept`: a file that a stopped call left."""
    half = len(scorer.ids) // 2
    found = list(np.load(kept).values()) if kept is not None and kept.exists() else []
    causal.eval()
    for start in range(len(found), len(users), _ROWS):
        block = users[start : start + _ROWS]
        rng = np.random.default_rng(0)  # pointwise prompts take no random numbers
        examples = [packed_prompts(scorer.tuning_prompts(user.query, user.consumed.tolist(), rng)) for user in block]
        with torch.inference_mode():
            logits = answer_logits(causal, examples, scorer.ids).double()
        odds = (logits[:, :half].logsumexp(1) - logits[:, half:].logsumexp(1)).numpy()
        found += np.split(odds, np.cumsum([len(user.query.candidates) for user in block])[:-1])
        if kept is not None:
            np.savez(kept, *found)
    return found


def auc(scores: Sequence[Floats], users: Sequence[UserCandidates]) -> Floats:
    """P(a consumed candidate scores above another), ties count half, [users]."""
    out = []
    for values, user in zip(scores, users, strict=True):
        gap = values[user.consumed][:, None] - values[~user.consumed][None, :]
        out.append(float(((gap > 0) + 0.5 * (gap == 0)).mean()))
    return np.array(out)


def ndcg(scores: Ragged, moment: Moment) -> Floats:
    """nDCG@10 of each user's candidates in the order of these scores, [users]."""
    window = moment.window()
    out = []
    for row in range(len(window.consumed)):
        best = np.argsort(-scores[row], kind="stable")[:10]
        discount = 1 / np.log2(np.arange(10) + 2)
        found = (window.consumed[row][best] * discount[: len(best)]).sum()
        out.append(float(found / discount[: len(moment.consumed[row])].sum()))
    return np.array(out)


def blended(learned: Moment, learned_odds: Sequence[Floats], judged: Moment, odds: Sequence[Floats], cap: int) -> bool:
    """Print nDCG@10 of the blend with and without the reranker; whether it is not below with it."""
    specs = [spec.name for spec in source_specs(Retrieval()) if spec.retriever.personalized]
    content = [name.removeprefix(CONTENT) for name in learned.table.column_names if name.startswith(CONTENT)]
    blender = fit_blender([learned.window(learned_odds)], specs, content=content, item_features=NAMES)
    (gain,) = [gain for gain in blender.gains if gain.scorer == "llm"]
    print(
        f"blend: learned on {gain.users} users; the reranker's gain in log-likelihood {gain.gain:+.4f} "
        f"[{gain.low:+.4f}, {gain.high:+.4f}]: {'entered' if gain.entered else 'has not entered'}"
    )
    with_it, without = (
        ndcg(blender.scores(window.table, window.item_features, cap), judged)
        for window in (judged.window(odds), judged.window())
    )
    low, high = interval(with_it - without)
    met = with_it.mean() >= without.mean()
    print(
        f"blend: nDCG@10 {with_it.mean():.4f} with the reranker, {without.mean():.4f} without, difference "
        f"[{low:+.4f}, {high:+.4f}] (bar: not below): {'met' if met else 'MISSED'}"
    )
    return bool(met)


def interval(values: Floats) -> tuple[float, float]:
    """95% bootstrap of the mean over users."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (2000, len(values)))].mean(1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def tuned(
    folder: str, scorer: TextScorer, users: Sequence[UserCandidates], settings: TextTuning, minutes: float, kept: Path
) -> Any:
    """The model with a tuned adapter. Prints the loss curve. `kept`: a file that a stopped tuning left."""
    loop = TextTuningLoop(model_with_adapter(folder, settings), scorer, users, settings, Worker())
    if kept.exists():
        loop.resume(kept.read_bytes())
    cpu, before = time.process_time(), len(loop.progress.curve)

    def seconds() -> float:
        return sum(row["seconds"] for row in loop.progress.curve)

    def after_round(state: TextTuningLoop) -> None:
        row = state.progress.curve[-1]
        print(f"seed {settings.seed}: step {row['step']} / {state.steps}, loss {row['loss']:.3f}", file=sys.stderr)
        kept.write_bytes(state.checkpoint())
        if seconds() > 60 * minutes:
            raise _Enough

    try:
        if seconds() <= 60 * minutes:
            loop.run(after_round)
    except _Enough:
        print("tuning ended by --minutes", file=sys.stderr)
    tokens = sum(row["tokens"] for row in loop.progress.curve)
    here = sum(row["tokens"] for row in loop.progress.curve[before:])
    print(
        f"tuning: {loop.progress.step} steps, {tokens:,.0f} tokens, {seconds() / 60:.1f} minutes, "
        f"{here / max(time.process_time() - cpu, 1e-9):.0f} tokens a CPU-second; loss of each "
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
    parser.add_argument("--blend-users", default=150, type=int, help="users to learn the blend on")
    parser.add_argument("--negatives", default=4, type=int, help="candidates of an example beside the consumed one")
    parser.add_argument("--batch-users", default=4, type=int)
    parser.add_argument("--depth", default=20, type=int)
    parser.add_argument("--layers", default=15, type=int, help="last layers with an adapter")
    parser.add_argument("--learning-rate", default=1e-3, type=float)
    parser.add_argument("--minutes", default=15.0, type=float, help="of tuning, per seed")
    parser.add_argument("--seeds", default=1, type=int)
    parser.add_argument("--keep", type=Path, help="a folder from which a stopped benchmark goes on")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    setting, checkpoint = SETTINGS[args.data], InstructCheckpoint.open(args.checkpoint)
    scorer = prompting_scorer(
        checkpoint, "pointwise", TEXT_SCORERS["pointwise"].settings_class(**SHORT), load_templates()
    )
    horizon = setting.horizon_days * MICROSECONDS_PER_DAY
    keep = args.keep or Path(tempfile.mkdtemp())
    keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        config = load(CONF / setting.config, [f"data.root={args.root}", f"output.root={folder}"])
        context = RunContext(config, args.date + timedelta(days=setting.horizon_days))  # with what was then consumed
        with without_ray():
            ingest(context)
        evaluated, learned, tuning = (
            moment(CutoffSnapshot(context, context.cutoff - back * horizon, 3), scorer, horizon, args.depth, most)
            for back, most in ((1, args.users), (2, args.blend_users), (3, args.train_users))
        )
    training = tuning.users
    print(
        f"{len(training)} users to tune on, {len(learned.users)} to learn the blend on, {len(evaluated.users)} "
        f"evaluated, {args.depth} candidates",
        file=sys.stderr,
    )
    found = {system: auc(scores, evaluated.users) for system, scores in evaluated.plain.items()}
    settings = TextTuning(
        max_users=args.train_users,
        layers=args.layers,
        learning_rate=args.learning_rate,
        lora_rank=8,
        negatives=args.negatives,
        batch_users=args.batch_users,
    )
    seeds, blend_met = [], True
    for seed in range(args.seeds):
        settings = settings.model_copy(update={"seed": seed})
        if "untuned" not in found:
            fresh = model_with_adapter(args.checkpoint, settings)  # a fresh adapter changes nothing
            found["untuned"] = auc(
                language_model_scores(fresh, scorer, evaluated.users, keep / "untuned.npz"), evaluated.users
            )
            print(f"untuned {found['untuned'].mean():.3f}", file=sys.stderr)
        causal = tuned(args.checkpoint, scorer, training, settings, args.minutes, keep / f"adapter-{seed}")
        odds = language_model_scores(causal, scorer, evaluated.users, keep / f"evaluated-{seed}.npz")
        seeds.append(auc(odds, evaluated.users))
        print(f"tuned {seeds[-1].mean():.3f}", file=sys.stderr)
        own = language_model_scores(causal, scorer, learned.users, keep / f"learned-{seed}.npz")
        blend_met &= blended(learned, own, evaluated, odds, _CAP)
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
    return 0 if (met and blend_met) or not args.check else 1


if __name__ == "__main__":
    sys.exit(main())
