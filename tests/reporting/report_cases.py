"""Report data for tests: `full` has every section, `bare` is of a run that was not published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date

import numpy as np
import pyarrow as pa

from rayrec.blending.blender import ScorerGain
from rayrec.data.schemas import INSTRUCTION, QUARANTINE, SLATE
from rayrec.denoising.denoiser import REASONS
from rayrec.evaluation.beyond_accuracy import ItemStatistics, beyond_accuracy
from rayrec.evaluation.comparison import compare
from rayrec.evaluation.metrics import RelevantItems, user_metrics
from rayrec.evaluation.off_policy.arm_estimates import OFF_POLICY_ESTIMATES
from rayrec.evaluation.off_policy.interleaving import interleaving
from rayrec.instructions.facet_scheme import BELOW, CATEGORY, FacetScheme
from rayrec.instructions.request_understanding import RequestUnderstanding
from rayrec.monitoring.drift import drift
from rayrec.monitoring.item_text_effects import item_text_effects
from rayrec.monitoring.removal_statistics import AGES, POPULARITY_BANDS
from rayrec.monitoring.request_recognition import request_recognition
from rayrec.monitoring.run_guardrails import GUARDRAIL_FINDINGS
from rayrec.monitoring.run_statistics import count_statistics, merge, slate_statistics
from rayrec.monitoring.scorer_gains import gain_statistics
from rayrec.reporting.report_data import BEFORE_AFTER, EXAMPLE, LOSSES, REMOVED, TIMINGS, ReportData

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"
DAY = date(2026, 3, 2)


def slates(
    users: int = 40, items: int = 60, seed: int = 0, size: int = 20, arms: tuple[str, ...] = ("control", "llm")
) -> tuple[pa.Table, pa.Array, pa.Array]:
    """SLATE rows of the arms, with the catalogue's ids and categories."""
    rng = np.random.default_rng(seed)
    item_id = pa.array([f"item-{n:03d}" for n in range(items)])
    category = pa.array([f"kind {n % 7}" if n % 7 else None for n in range(items)])
    tables = []
    for arm in arms:
        ranked = np.argsort(rng.random((users, items)), axis=1)[:, :size].ravel()
        rows = users * size
        columns = {
            "dt": pa.array([DAY] * rows),
            "arm": [arm] * rows,
            "slate_id": [f"{arm}-{n // size}" for n in range(rows)],
            "user_id": [f"user-{n // size}" for n in range(rows)],
            "rank": np.tile(np.arange(1, size + 1), users),
            "item_id": item_id.take(pa.array(ranked)),
            "score": np.sort(rng.normal(size=(users, size)), axis=1)[:, ::-1].ravel(),
            "source": [("ease", "recent_popularity", "llm")[n] for n in rng.integers(0, 3, rows)],
            "propensity": np.ones(rows),
        }
        tables.append(
            pa.table({name: pa.array(values).cast(SLATE.field(name).type) for name, values in columns.items()})
        )
    return pa.concat_tables(tables).cast(SLATE), item_id, category


def table_of(schema: pa.Schema, rows: Sequence[tuple[object, ...]]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)


def denoising_reasons() -> pa.Table:
    counts = {REASONS[0]: 900.0, "inconsistent": 60.0, "negative_influence": 30.0, REASONS[3]: 10.0}
    return count_statistics("denoising reason", {"influence": counts})


def removal_counts() -> pa.Table:
    rows = {
        "removed by event": ((HOSTILE, 600, 90), ("purchase", 400, 10)),
        "removed by age": ((AGES[0][1], 1000, 100),),
        "removed by popularity": ((POPULARITY_BANDS[0], 100, 1), (POPULARITY_BANDS[2], 900, 99)),
    }
    tables = []
    for statistic, bands in rows.items():
        counts = {f"{name}/all": whole for name, whole, _ in bands} | {f"{name}/removed": out for name, _, out in bands}
        tables.append(count_statistics(statistic, {"influence": counts}))
    return pa.concat_tables(tables)


def estimates() -> list[dict[str, object]]:
    known = {"logging_arm": "control", "estimator": "sn_rips", "slates": 1200, "effective_sample_size": 310.5}
    one = {**known, "target_arm": "llm", "value": 0.31, "low": 0.25, "high": 0.37, "standard_error": 0.03}
    own = {**one, "target_arm": "control", "estimator": "on_policy", "value": 0.28, "low": 0.27, "high": 0.29}
    return [own, one, {**known, "target_arm": HOSTILE, "no_estimate_reason": f"no support: {HOSTILE}"}]


def ablation() -> pa.Table:
    columns = {"item": [0, 1, 1, 2], "score": [1.0, 5.0, 4.0, 0.0], "score_title_only": [0.9, 1.0, 1.0, 0.2]}
    return pa.table(
        columns, pa.schema([("item", pa.int32()), ("score", pa.float32()), ("score_title_only", pa.float32())])
    )


def changed_slates() -> pa.Table:
    return count_statistics("rule", {"llm": {"max_per_category": 12.0, HOSTILE: 3.0}})


def gains() -> pa.Table:
    found = [
        ScorerGain("ease", 0.2, 0.1, 0.3, 400, True, 10.0),
        ScorerGain("content.char", 0.05, 0.01, 0.08, 400, True),
        ScorerGain("llm", -0.001, -0.01, 0.01, 44, False, None),
        ScorerGain("llm", 0.7, 0.5, 0.9, 60, True, 1.0, request=True),
    ]
    return gain_statistics("control, llm", found)


def full(name: str = HOSTILE) -> ReportData:
    """A report with all sections, all texts hostile or long."""
    table, item_id, category = slates()
    summary = merge(
        [slate_statistics(table, item_id, category), denoising_reasons(), removal_counts(), changed_slates(), gains()]
    )
    earlier = merge([slate_statistics(*slates(seed=5)), denoising_reasons()])
    users = pa.array([f"user-{n}" for n in range(40)])
    truth = RelevantItems.from_pairs(users, item_id.take(pa.array(np.arange(40))), item_id)
    measured = [
        user_metrics(arm, table.filter(pa.compute.equal(table["arm"], arm)), truth) for arm in ("control", "llm")
    ]
    facts = ItemStatistics.of(np.arange(len(item_id))[::-1].astype(float), category)
    category_shares = facts.category_shares(np.arange(40), np.arange(40), 40)
    measured = [replace(one, values=one.values | beyond_accuracy(one.top, facts, category_shares)) for one in measured]
    comparison = compare(measured, seed=0, baselines=["control"], resamples=200)
    few_users = [one.take(np.arange(30)) for one in measured]
    few = compare(few_users, seed=0, baselines=["control"], segment=HOSTILE, metrics=["ndcg@10"], resamples=200)
    comparison = pa.concat_tables([comparison, few])
    quarantine = {"file": "events/2026-02-01.csv", "row": 7, "user_id": None, "reason": HOSTILE, "detail": "x" * 500}
    removed = {"user_id": "user-1", "variant": "influence", "title": HOSTILE, "ts": 1_760_000_000_000_000}
    history = [(f"Thing {n}", "2026-02-01 view", "inconsistent" if n == 3 else "") for n in range(8)]
    person = [("user-1", "", n, *line) for n, line in enumerate(history)]
    for arm in ("control", "llm"):
        person += [("user-1", arm, n, f"Thing {n} " + "of great length " * 3, "ease", "") for n in (1, 2, 3)]
    return ReportData(
        name=name,
        date=DAY,
        run_id="0123456789abcdef",
        published=True,
        publication_status="40 users have a slate in each of 2 arms.",
        arms={"control": "no denoising, no LLM", "llm": "influence denoising, item-token LLM"},
        facts={"engine": "vllm 40", "fingerprint": "a" * 64, HOSTILE: HOSTILE},
        users_in=50,
        users_published=40,
        users_quarantined={HOSTILE: 2, "the prompt failed": 1},
        users_ineligible={"fewer than 3 events": 7},
        rows_read=10_000,
        rows_quarantined={HOSTILE: 30, "no user": 12},
        statistics=summary,
        quarantine_examples=pa.Table.from_pylist([{**quarantine, "raw": HOSTILE * 20}], QUARANTINE),
        removed_examples=pa.Table.from_pylist(
            [{**removed, "reason": REASONS[3], "influence": 0.01, "negative_influence": None}], REMOVED
        ),
        examples=table_of(EXAMPLE, person),
        before_after=table_of(
            BEFORE_AFTER,
            [
                ("user-1", "influence", 0, HOSTILE, "2026-02-01 view", HOSTILE),
                ("user-1", "influence", 1, "Thing", "2026-02-02 view", ""),
            ],
        ),
        arms_by_variant={"influence": "control, llm"},
        guardrails=table_of(
            GUARDRAIL_FINDINGS,
            [
                ("served", "users with a slate", "93.0% of 43 eligible users", "at least 95%", "block", False),
                ("drift", "drift from the previous date", HOSTILE, "no PSI over 0.25", "warn", None),
            ],
        ),
        previous_date=date(2026, 3, 1),
        drift=drift(earlier, summary),
        timings=pa.Table.from_pylist([{"stage": "rerank", "seconds": 75.5, "done": 40, "unit": "users"}], TIMINGS),
        losses=pa.table({"step": [0, 50, 100], "loss": [5.0, 3.1, 2.9]}, LOSSES),
        evaluated_on="38 users with at least 3 events, 2026-03-02 to 2026-03-08.",
        comparison=comparison,
        ground_truth=comparison,
        baseline="control",
        recommendation="Keep control: no arm is significantly better.",
        arm_conclusions=(f"llm − control: +3.1% nDCG@10, 95% interval −1.2% … +5.0%. {HOSTILE}",),
        interleaving=interleaving(measured, truth.matrix, "control", 0),
        off_policy_source="12,000 rows of feedback on 1,200 slates",
        off_policy=pa.Table.from_pylist(estimates(), OFF_POLICY_ESTIMATES),
        requests=recognition(requests(), ["red lamp", "something in"]),
        text_ablation=item_text_effects("pointwise", ablation(), pa.array(["Lamp", HOSTILE, "Tent"])),
    )


def requests() -> pa.Table:
    """Two campaigns for all users, one of them hostile, and users' own requests: one of five users, two unique."""
    rows = [("*", "a", None, HOSTILE), ("*", "b", None, "a red lamp")]
    rows += [(f"u{n}", None, None, "Lamps, please") for n in range(5)]
    rows += [("u8", arm, "secret wish", None) for arm in "abcdef"] + [("u9", None, None, "my own lamp")]
    return table_of(INSTRUCTION, rows)


def recognition(instructions: pa.Table, vocabulary: list[str] | None) -> pa.Table:
    """REQUEST_RECOGNITION with what the rules find."""
    rules = RequestUnderstanding.of(scheme())
    return request_recognition(instructions, vocabulary, scheme(), rules, lambda text: bool(rules(text)))


def scheme() -> FacetScheme:
    """Facets: lamps, and prices below 5."""
    return FacetScheme((CATEGORY, BELOW), ("lamp", "5"), {"price": BELOW})


def bare() -> ReportData:
    """A run that was refused before it had any data to show."""
    return ReportData(
        name="shop",
        date=DAY,
        run_id="0",
        published=False,
        publication_status="61% of the rows violated the contract; the limit is 5%.",
        arms={"control": ""},
        facts={},
        users_in=0,
        users_published=0,
        users_quarantined={},
        users_ineligible={},
        rows_read=0,
        rows_quarantined={},
    )
