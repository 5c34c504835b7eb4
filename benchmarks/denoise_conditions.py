"""Conditions of the denoising benchmark: what each one removes for a (noise, seed), and the metrics that follow."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import yaml

from benchmarks import denoise_detect as detect
from benchmarks import denoise_llm as llm
from benchmarks import denoise_rank as rank
from benchmarks.denoise_data import HeldOut
from benchmarks.denoise_planting import Clean, insert, planted_items
from rayrec.config import Denoise
from rayrec.data.schemas import MICROSECONDS_PER_DAY
from rayrec.denoising import DENOISERS, Histories
from rayrec.denoising.auto import AutoDenoiser, AutoSettings, contestants
from rayrec.denoising.denoiser import histories_of
from rayrec.evaluation.denoising_contest import decide, score_cutoff
from rayrec.instructions.text_cleaning import clean
from rayrec.numerics.hashing import derive_seed
from rayrec.numerics.ragged import Ragged
from rayrec.pipeline.item_model_fitting import required_denoiser_fits, required_fits_of
from rayrec.reranking.item_token.item_lm import ItemLM
from rayrec.retrieval import item_model
from rayrec.retrieval.source_specs import SourceSpec

NOTHING, RANDOM, POPULARITY, ORACLE = "none", "random", "popularity", "oracle"
CONTROLS = (NOTHING, RANDOM, POPULARITY, ORACLE)
CLEAN, NATURAL = "clean", "natural"
DEFAULT = Denoise().method  # what a user gets who sets nothing
EASE = {"regularization": 200.0}

Record = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is the same for all conditions. `steps`: of each tuning; 0 leaves the LLM out."""

    share: float
    steps: int
    models: Path  # where the models tuned on noisy histories are stored


def read_condition(text: str) -> tuple[str, dict[str, Any]]:
    """`influence:max_removed_share=0.1,negative_influence_share=0` as (method, settings)."""
    name, _, rest = text.partition(":")
    pairs = (part.partition("=") for part in rest.split(",") if part)
    return name, {key: yaml.safe_load(value) for key, _, value in pairs}


class Case:
    """Histories with one kind of noise, planted with one seed, and all that is fitted on them once."""

    def __init__(self, held: HeldOut, noise: str, seed: int, plan: Plan) -> None:
        self.held, self.noise, self.seed, self.plan = held, noise, seed, plan
        table, self.planted = _noisy(held, noise, seed, plan.share)
        self.histories: Histories = histories_of(table, held.event_weights)
        self.positive = self.histories.weight.values > 0
        self.rows = self.histories.item.rows
        self.cutoff = int(held.user_cutoffs.max()) + (held.protocol == "last-event")
        self._table = table
        self._decisions: dict[str, tuple[detect.TimedDecision, float]] = {}

    def record(self, condition: str) -> Record:
        """All measurements of a condition. Raises ConfigError where a method cannot be loaded."""
        keep, values = self._removal(condition)
        evaluated = self.positive
        code = self.histories.item.values[evaluated]
        values |= detect.removed(keep[evaluated], self.planted[evaluated], code, self.held.items)
        if self.noise != NATURAL:
            values |= self._rankings(condition, keep)
        return {"noise": self.noise, "seed": self.seed, "condition": condition, **values}

    def decision(self, condition: str) -> tuple[detect.TimedDecision, float]:
        """A method's decision, made once, and the seconds of the fits that it needs."""
        if condition not in self._decisions:
            method, settings = read_condition(condition)
            arrays, seconds = self._fitted(Denoise(method=method, settings=settings))
            self._decisions[condition] = detect.timed(method, settings, arrays, self.histories), seconds
        return self._decisions[condition]

    def _fitted(self, denoise: Denoise) -> tuple[Mapping[str, npt.NDArray[Any]], float]:
        """The item model's arrays for a method, fitted on the noisy histories as in the daily run; and the seconds."""
        started = time.perf_counter()
        own = SourceSpec.of("ials", "ials", 0, seed=self.seed), SourceSpec.of("ease", "ease", 0, **EASE)
        needs = required_fits_of([denoise])
        methods = {need.method for need in needs}
        specs = item_model.required_sources([[spec for spec in own if spec.method in methods]], False, needs)
        ids, weights = self.held.catalogue["item_id"].combine_chunks(), self.held.event_weights
        fits = required_denoiser_fits([denoise])

        def at(cutoff: int) -> dict[str, npt.NDArray[Any]]:
            return item_model.fit([self._table], ids, specs, weights, cutoff, 10**9, fits).denoiser_arrays(specs)

        arrays = at(self.cutoff)
        if isinstance(denoise.settings, AutoSettings):
            arrays[f"{AutoDenoiser.fit_key(denoise.settings)}.choice"] = self._choice(denoise.settings, at)
        return arrays, time.perf_counter() - started

    def _choice(
        self, settings: AutoSettings, fitted: Callable[[int], dict[str, npt.NDArray[Any]]]
    ) -> npt.NDArray[np.int64]:
        """What `auto` takes on the noisy histories, by a contest at two cutoffs before the case's own."""
        step, tried, measured = self.held.horizon_days * MICROSECONDS_PER_DAY, contestants(settings), []
        for back in (2, 1):
            arrays, cutoff = fitted(self.cutoff - back * step), self.cutoff - back * step
            denoisers = [DENOISERS.lookup(one.denoise.method).load(arrays, one.denoise.settings) for one in tried]
            weights, items = self.held.event_weights, self.held.items
            measured.append(
                score_cutoff(
                    self._table, cutoff, cutoff + step, denoisers, weights, items, settings, EASE["regularization"]
                )
            )
        return np.array([decide(measured, tried, settings).choice])

    def _removal(self, condition: str) -> tuple[npt.NDArray[np.float32], Record]:
        """Keep weights [events], and their detection metrics.

        `random` and `popularity` (least popular first) remove as many events of each user as the default method, or
        as the method named after an `@`.
        """
        name, _, like = condition.partition("@")
        everything = np.ones(len(self.planted), np.float32)
        if name == NOTHING:
            return everything, {}
        if name == ORACLE:
            return np.where(self.planted, 0, 1).astype(np.float32), {}
        if name in (RANDOM, POPULARITY):
            gone = self.decision(like or DEFAULT)[0].decision.keep_weight == 0
            number = np.bincount(self.rows, gone, minlength=len(self.histories)).astype(np.int64)
            score = self._popularity if name == POPULARITY else self._rng("removal").random(len(everything))
            score = np.where(self.positive, score, np.inf)
            return detect.lowest_first(number, score, self.histories.item), self._found(-score)
        timed, fit_seconds = self.decision(condition)
        values = self._found(detect.suspicion(timed.decision))
        values["events_per_second"] = len(everything) / timed.decide_seconds
        values["fit_seconds"] = fit_seconds + timed.load_seconds
        values["peak_mb"] = timed.peak_bytes / 1e6
        return timed.decision.keep_weight, values

    def _found(self, score: npt.NDArray[np.float64]) -> Record:
        evaluated = self.positive
        return dict(detect.found(score[evaluated], self.planted[evaluated], self.rows[evaluated]))

    def _rankings(self, condition: str, keep: npt.NDArray[np.float32]) -> Record:
        retained = rank.RetainedEvents.of(self.histories, keep, self.held.items)
        ials = rank.refitted("ials", retained, self.cutoff, {"seed": self.seed})
        values = self._means("ials", rank.scores_of(ials, retained))
        values |= self._means("ease", rank.scores_of(rank.refitted("ease", retained, self.cutoff, EASE), retained))
        if self.plan.steps:
            started = time.perf_counter()
            lm = (
                self._noisy_lm
                if condition == NOTHING
                else llm.tuned(self._encoder, retained, ials.arrays()["factors"], self.plan.steps)
            )
            values["tuning_seconds"] = time.perf_counter() - started
            values |= self._means("retuned", llm.scores_of(self._encoder, lm, retained))
            values |= self._means("not retuned", llm.scores_of(self._encoder, self._noisy_lm, retained))
        return values

    def _means(self, ranker: str, scores: rank.Scores) -> Record:
        found = rank.ranking_metrics(scores, self._seen, self.held.wanted)
        return {f"{ranker} {metric}": float(value.mean()) for metric, value in found.items()}

    @cached_property
    def _seen(self) -> sp.csr_matrix:
        """What each user has, noise included: the same in every condition."""
        item = self.histories.item
        cells = (np.ones(len(item.values), np.bool_), (item.rows, item.values))
        return sp.csr_matrix(cells, shape=(len(item), self.held.items))

    @cached_property
    def _popularity(self) -> npt.NDArray[np.float64]:
        """[events] positive events of each event's item."""
        item = self.histories.item.values
        counts = np.bincount(item[self.positive], minlength=self.held.items)
        return np.asarray(counts[item], np.float64)

    @cached_property
    def _encoder(self) -> llm.PromptEncoder:
        config = self.held.config
        settings = config.tuning.model_copy(update={"seed": self.seed})
        if self.held.protocol == "last-event":  # every user has an own cutoff: no age matters more
            settings = settings.model_copy(update={"target_half_life_days": 0.0})
        counts = np.bincount(self.histories.item.values[self.positive], minlength=self.held.items)
        words = clean(config.instruction.default_request, config.instruction.max_chars)
        return llm.PromptEncoder.of(self.held.catalogue, counts, words, settings, self.held.user_cutoffs)

    @cached_property
    def _noisy_lm(self) -> ItemLM:
        """Tuned on everything, as yesterday's model was; stored in a file for later runs of other conditions."""
        path = self.plan.models / f"{self.noise}-{self.seed}.safetensors"
        if not path.is_file():
            retained = rank.RetainedEvents.of(self.histories, np.ones(len(self.planted), np.float32), self.held.items)
            factors = rank.refitted("ials", retained, self.cutoff, {"seed": self.seed}).arrays()["factors"]
            llm.save(llm.tuned(self._encoder, retained, factors, self.plan.steps), path)
        return llm.load(self._encoder, path)

    def _rng(self, purpose: str) -> np.random.Generator:
        return np.random.default_rng(derive_seed(purpose, self.noise, self.seed))


def _noisy(held: HeldOut, noise: str, seed: int, share: float) -> tuple[Any, npt.NDArray[np.bool_]]:
    """HISTORY, and which of its events are noise."""
    if noise == NATURAL:
        return held.observed, held.natural
    item = Ragged.from_arrow(held.history["item"])
    if noise == CLEAN:
        return held.history, np.zeros(len(item.values), np.bool_)
    positive = histories_of(held.history, held.event_weights).weight.values > 0
    rng = np.random.default_rng(derive_seed("planting", noise, seed))
    items = planted_items(Clean(item, positive, held.wanted, held.items), noise, share, rng)
    return insert(held.history, positive, held.user_cutoffs, items, rng)
