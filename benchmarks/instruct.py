"""Measures whether the LLM follows requests in words, against BM25, filters and recommenders without instructions.

    python -m benchmarks.instruct --data movietweetings --root DIR --seeds 0 1 2 --check

One held-out item a user (see denoise_data.py), the LLM tuned from scratch as in the daily job. The questions:

    sequential    history alone (P1 I0): all items ranked, and short lists of 1 + 99 and 1 + 9
    search        words of the held-out item's facets alone (P0 I2)
    personalised  both (P1 I2); its halves are the two above
    vague         a mood and the history (P1 I1)
    following     share of the top 10 that satisfies a request unrelated to the held-out item: in the phrases of tuning,
                  in held-out paraphrases, in out-of-distribution paraphrases (instruct_out_of_distribution.py), and for
                  pairs of facets that tuning never combines
    new item      request and history, where the next item has too few events to be tuned: all items ranked, and short
                  lists of such items
    shuffled      the personalised requests, each given to another user: must not beat no request (a model that follows
                  requests does worse, because it ranks what the other user requested)

Intervals: 95%, over users of all seeds, by the normal approximation.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import yaml

from benchmarks.denoise_data import SOURCES, HeldOut, held_out
from benchmarks.denoise_rank import RetainedEvents, refitted, scores_of
from benchmarks.instruct_model import TunedLLM, tune, with_facet_bonus
from benchmarks.instruct_peer import sasrec
from benchmarks.instruct_requests import (
    Bools,
    EvaluationSet,
    Floats,
    Int,
    Scores,
    both_of,
    facet_requests,
    metrics_by_user,
    requestable_kinds,
)
from rayrec.config import Tuning
from rayrec.denoising.denoiser import histories_of
from rayrec.instructions.bm25 import Bm25
from rayrec.instructions.facets import Facets
from rayrec.instructions.teachers.instruction_simulator import InstructionSimulator
from rayrec.instructions.templates import InstructionRenderer, Templates, load_templates
from rayrec.numerics.ragged import Ragged

Measures = dict[tuple[str, str], dict[str, Floats]]  # (question, ranker) -> measure -> [users]
COLUMNS = ("nDCG@10", "HR@1", "HR@10", "HR@1 of 100", "HR@10 of 100", "HR@1 of 10", "HR@5 of 10", "satisfied@10")
FOLLOWING = "following: "
PEER = "SASRec (RecTools)"
PROMPTS = "LLM, prompts alone"  # without the facet bonus
ONE_PROMPT = "LLM, one prompt"  # without guidance either
UNSEEN = 0.2  # share of the facet pairs that tuning never names together


@dataclass(frozen=True)
class Bench:
    """The case of one seed: what all questions are made from."""

    case: HeldOut
    retained: RetainedEvents
    evaluation: EvaluationSet
    facets: Facets
    templates: Templates
    held_out_pairs: Int  # [pairs, 2]
    known: Bools  # [items] with enough events to be tuned
    seed: int

    @classmethod
    def of(cls, case: HeldOut, seed: int, users: int, min_item_events: int) -> Bench:
        histories = histories_of(case.history, case.event_weights)
        retained = RetainedEvents.of(histories, np.ones(len(histories.item.values), np.float32), case.items)
        known = np.bincount(retained.item.values, minlength=case.items) >= min_item_events
        facets = Facets.of(case.catalogue)
        pairs = both_of(facets, known)
        chosen = np.random.default_rng([seed, 3]).random(len(pairs)) < UNSEEN
        unseen = np.array([pair for pair, out in zip(pairs, chosen, strict=True) if out], np.int64).reshape(-1, 2)
        evaluation = EvaluationSet.of(retained.item, case.wanted, case.items, known, seed, users)
        return cls(case, retained, evaluation, facets, load_templates(), unseen, known, seed)

    @property
    def history(self) -> Ragged:
        return self.retained.item

    def rows(self, texts: list[str], evaluation: EvaluationSet | None = None) -> list[str]:
        """Texts of the evaluated users, spread over all rows of the case."""
        out = [""] * len(self.case.history)
        for user, text in zip((evaluation or self.evaluation).users, texts, strict=True):
            out[user] = text
        return out


def plain_rankers(bench: Bench) -> dict[str, Scores]:
    cutoff = int(bench.case.user_cutoffs.max()) + 1
    kinds = {"popularity": ("popularity", {}), "EASE": ("ease", {"regularization": 200.0}), "iALS": ("ials", {})}
    found = {
        name: scores_of(refitted(kind, bench.retained, cutoff, dict(given)), bench.retained)
        for name, (kind, given) in kinds.items()
    }
    found["item-kNN"] = scores_of(refitted("item_knn", bench.retained, cutoff, {}), bench.retained)
    return {name: spread(scores, bench.case.items) for name, scores in found.items()}


def spread(scores: Scores, items: int) -> Scores:
    """A ranker that is the same for everybody gives one row: as many as there are users."""
    return lambda users: np.array(np.broadcast_to(scores(users), (len(users), items)))


def once(scores: Scores) -> Scores:
    """The same scores, computed once for the same users."""
    known: dict[bytes, Floats] = {}

    def cached(users: Int) -> Floats:
        key = users.tobytes()
        if key not in known:
            known[key] = scores(users)
        return known[key].copy()

    return cached


def bm25_search(bench: Bench, texts: list[str]) -> Scores:
    words = [" ".join(bench.facets.name[n] for n in bench.facets.of_item[row]) for row in range(bench.case.items)]
    titles = bench.case.catalogue["title"].to_pylist()
    index = Bm25(f"{title} {word}" for title, word in zip(titles, words, strict=True))
    return lambda users: index.scores([texts[user] for user in users])


def with_filter(scores: Scores, satisfied: np.ndarray, row_of: Mapping[int, int]) -> Scores:
    """The scores of what satisfies the request first; an oracle that understands every word."""

    def both(users: Int) -> Floats:
        found = scores(users)
        good = satisfied[[row_of[int(user)] for user in users]]
        span = np.float32(2 * np.abs(found[np.isfinite(found)]).max(initial=0) + 1)
        return np.asarray(found + span * good, np.float32)

    return both


def questions(bench: Bench, llm: TunedLLM, peer: str | None) -> Measures:
    evaluation, facets, history = bench.evaluation, bench.facets, bench.history
    plain = plain_rankers(bench)
    row_of = {int(user): row for row, user in enumerate(evaluation.users)}
    out: Measures = {}

    def evaluate(question: str, ranker: str, scores: Scores, satisfied: np.ndarray | None = None) -> None:
        out[question, ranker] = metrics_by_user(scores, evaluation, history, satisfied)

    def evaluate_llm(question: str, texts: list[str], requests: list[str], satisfied: np.ndarray | None = None) -> None:
        """Beside their histories: as in the daily job, and with parts of that left out."""
        prompts = once(llm.scores(texts))
        evaluate(question, "LLM", with_facet_bonus(prompts, facets, requests), satisfied)
        evaluate(question, PROMPTS, prompts, satisfied)
        evaluate(question, ONE_PROMPT, llm.scores(texts, guided=False), satisfied)

    for name, scores in plain.items():
        evaluate("sequential", name, scores)
    if peer is not None:
        evaluate("sequential", PEER, sasrec(peer, bench.retained, evaluation.users, bench.seed))
    evaluate("sequential", "LLM", llm.scores(None))

    rng = np.random.default_rng([bench.seed, 4])
    render = InstructionRenderer(bench.templates)
    wanted = InstructionSimulator(facets).specific(evaluation.target, rng)
    fits = np.stack(
        [
            facets.items_of([f for f in inc if f >= 0], [f for f in exc if f >= 0])
            for inc, exc in zip(wanted.include.tolist(), wanted.exclude.tolist(), strict=True)
        ]
    )
    requests = bench.rows(list(wanted.text))
    evaluate("search", "BM25", bm25_search(bench, requests), fits)
    evaluate("search", "popularity + filter", with_filter(plain["popularity"], fits, row_of), fits)
    alone = llm.scores([render("", text, history=False) for text in requests], history=False)
    evaluate("search", "LLM", with_facet_bonus(alone, facets, requests), fits)

    together = [render("", text, history=True) for text in requests]
    evaluate("personalised", "EASE + filter", with_filter(plain["EASE"], fits, row_of), fits)
    evaluate("personalised", "LLM without request + filter", with_filter(llm.scores(None), fits, row_of), fits)
    evaluate_llm("personalised", together, requests, fits)
    shuffled = bench.rows([wanted.text[n] for n in rng.permutation(len(wanted.text))])
    others = llm.scores([render("", text, history=True) for text in shuffled])
    evaluate("shuffled", "LLM", with_facet_bonus(others, facets, shuffled), fits)
    evaluate("no request", "LLM", llm.scores(None), fits)
    moods = bench.rows(list(InstructionSimulator(facets).vague(evaluation.target, rng).text))
    evaluate_llm("vague", [render("", text, history=True, vague=True) for text in moods], moods)

    for kind in (*requestable_kinds(facets), "both", "unseen"):
        generated = facet_requests(facets, bench.held_out_pairs, len(evaluation.users), kind, bench.seed, bench.known)
        for split in ("train", "held_out"):
            render_split = InstructionRenderer(bench.templates, split)
            words = bench.rows(generated.words(facets, split))
            texts = [render_split("", text, history=True) if text else "" for text in words]
            evaluate_llm(f"{FOLLOWING}{kind}, {split}", texts, words, generated.satisfied)
        written = [text for text in generated.out_of_distribution(facets) if text is not None]
        if len(written) == len(evaluation.users):
            whole = bench.rows(written)  # with the frame: where the request begins is not marked
            evaluate_llm(f"{FOLLOWING}{kind}, out of distribution", whole, whole, generated.satisfied)
    return out | _new_items(bench, llm, render)


def _new_items(bench: Bench, llm: TunedLLM, render: InstructionRenderer) -> Measures:
    evaluation = EvaluationSet.of(
        bench.history, bench.case.wanted, bench.case.items, ~bench.known, bench.seed, len(bench.history)
    )
    if not len(evaluation.users):
        return {}
    wanted = InstructionSimulator(bench.facets).specific(evaluation.target, np.random.default_rng([bench.seed, 5]))
    words = bench.rows(list(wanted.text), evaluation)
    with_request = with_facet_bonus(llm.scores([render("", text, history=True) for text in words]), bench.facets, words)
    rankers = {"BM25": bm25_search(bench, words), "LLM without request": llm.scores(None), "LLM": with_request}
    return {("new item", name): metrics_by_user(scores, evaluation, bench.history) for name, scores in rankers.items()}


def tuning_of(case: HeldOut, sets: Sequence[str], epochs: int | None = None) -> Tuning:
    """The case's tuning with settings (key=value) changed; every target of a held-out item weighs the same."""
    pairs = (pair.split("=", 1) for pair in sets)
    changed = {key: yaml.safe_load(value) for key, value in pairs} | ({} if epochs is None else {"epochs": epochs})
    planned = case.config.tuning.with_epochs(has_requests=True).model_dump()
    tuning = {**planned, **changed, "target_half_life_days": 0}
    return Tuning.model_validate(tuning, strict=False)


def prepare(case: HeldOut, tuning: Tuning, seed: int, users: int) -> tuple[Bench, TunedLLM, float]:
    """One seed's case and its tuned model; and how many minutes the tuning took."""
    bench = Bench.of(case, seed, users, tuning.min_item_events)
    factors = refitted("ials", bench.retained, int(case.user_cutoffs.max()) + 1, {}).arrays()["factors"]
    started = time.monotonic()
    llm = tune(case, tuning.model_copy(update={"seed": seed}), factors, bench.templates, bench.held_out_pairs)
    minutes = (time.monotonic() - started) / 60
    print(f"seed {seed}: tuned in {minutes:.1f} min, {len(bench.evaluation.users):,} users evaluated", flush=True)
    return bench, llm, minutes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=tuple(SOURCES), required=True)
    parser.add_argument("--root", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--users", type=int, default=1000, help="evaluated, at most")
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--set", action="append", default=[], help="tuning settings, as key=value")
    parser.add_argument("--peer", help="a Python with rectools[torch]: see peer_sasrec.py")
    parser.add_argument("--check", action="store_true", help="exit with 1 below a bar")
    given = parser.parse_args()
    case = held_out(given.data, given.root)
    tuning = tuning_of(case, given.set, given.epochs)
    found: list[Measures] = []
    minutes: list[float] = []
    for seed in given.seeds:
        bench, llm, spent = prepare(case, tuning, seed, given.users)
        found.append(questions(bench, llm, given.peer))
        minutes.append(spent)
        print(summary(given.data, found, minutes), flush=True)
    print_table(merged(found))
    print(summary(given.data, found, minutes))
    return 1 if given.check and not all(good for *_, good in bars(merged(found))) else 0


def merged(found: Sequence[Measures]) -> Measures:
    return {key: {m: np.concatenate([one[key][m] for one in found]) for m in found[0][key]} for key in found[0]}


def summary(data: str, found: Sequence[Measures], minutes: Sequence[float]) -> str:
    met = [f"{name}: {text} {'met' if good else 'NOT MET'}" for name, text, good in bars(merged(found))]
    return f"instruct {data}, {len(found)} seeds, tuned in {np.median(minutes):.1f} min: {'; '.join(met)}"


def print_table(measures: Measures) -> None:
    print(f"\n{'question':<44}{'ranker':<30}" + "".join(f"{name:>18}" for name in COLUMNS))
    for (question, ranker), values in measures.items():
        cells = []
        for name in COLUMNS:
            one = values.get(name)
            cells.append("" if one is None else f"{one.mean():.3f} ±{1.96 * one.std() / len(one) ** 0.5:.3f}")
        print(f"{question:<44}{ranker:<30}" + "".join(f"{cell:>18}" for cell in cells))


def bars(measures: Measures) -> list[tuple[str, str, bool]]:
    """(what, figure, met) of the bars that the data can answer."""

    def mean(question: str, ranker: str, name: str) -> float:
        return float(measures[question, ranker][name].mean())

    ratio = mean("sequential", "LLM", "nDCG@10") / mean("sequential", "EASE", "nDCG@10")
    peer = mean("sequential", PEER, "nDCG@10") if ("sequential", PEER) in measures else None
    halves = {hit: max(mean(half, "LLM", hit) for half in ("search", "sequential")) for hit in ("HR@1", "HR@1 of 100")}
    both = {hit: mean("personalised", "LLM", hit) / max(half, 1e-9) for hit, half in halves.items()}
    generated = {
        (kind, split): mean(f"{FOLLOWING}{kind}, {split}", "LLM", "satisfied@10")
        for kind, split in (q.removeprefix(FOLLOWING).split(", ") for q, _ in measures if q.startswith(FOLLOWING))
    }
    followed = []
    for split, name in (("held_out", "paraphrases"), ("out of distribution", "out-of-distribution paraphrases")):
        of = {kind: found for (kind, s), found in generated.items() if s == split}
        if of:
            least, lost = min(of.values()), max(generated[kind, "train"] - found for kind, found in of.items())
            followed.append((f"satisfied, least, {name}", f"{least:.1%} (bar 90%)", least >= 0.9))
            followed.append((f"lost on {name}, most", f"{100 * lost:.1f} points (bar 2)", lost <= 0.02))
    shuffled = mean("shuffled", "LLM", "satisfied@10") - mean("no request", "LLM", "satisfied@10")
    own = mean("sequential", "LLM", "nDCG@10")
    beside = [] if peer is None else [("sequential / SASRec nDCG@10", f"{own / peer:.2f} (bar 1)", own >= peer)]
    return [
        ("sequential / EASE nDCG@10", f"{ratio:.2f} (bar 1.25)", ratio >= 1.25),
        *beside,
        *((f"personalised / better half {hit}", f"{ratio:.2f} (bar 1.4)", ratio >= 1.4) for hit, ratio in both.items()),
        *followed,
        ("shuffled over no request", f"{100 * shuffled:+.1f} points (bar +2)", shuffled <= 0.02),
    ]


if __name__ == "__main__":
    sys.exit(main())
