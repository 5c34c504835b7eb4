"""The report of a night: facts gathered from what the run left in storage, once it is published."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date as Date

import pyarrow as pa
import pyarrow.parquet as pq

from rayrec.config import Denoise, Rerank, Retrieval, Slate
from rayrec.contracts.schemas import QUARANTINE
from rayrec.errors import DataError, MissingFileError
from rayrec.evaluation.asked import ASKED, asked
from rayrec.evaluation.comparison import COMPARISON
from rayrec.evaluation.drift import DRIFT, drift
from rayrec.evaluation.people import (
    Person,
    before_after_rows,
    differ_most,
    example_rows,
    read_catalogue,
    read_denoised,
    read_people,
    removed_examples,
    worth_showing,
)
from rayrec.evaluation.report import read_report
from rayrec.evaluation.report_data import LOSSES, TIMINGS, ReportData
from rayrec.evaluation.wording import WORDING, wording
from rayrec.pipeline.asking import anything_asked, facets, requests
from rayrec.pipeline.daily import Night
from rayrec.pipeline.day import Day
from rayrec.pipeline.kept import read_summaries
from rayrec.pipeline.rereading import read_reread
from rayrec.publishing.manifest import published_dates
from rayrec.publishing.reader import read_shard
from rayrec.publishing.records import Manifest
from rayrec.reranking import artefact
from rayrec.reranking.artefact import Card
from rayrec.slates.arms import ArmPath
from rayrec.storage import Storage

_RANKED = ("user_id", "rank", "item_id")
_QUARANTINE_EXAMPLES, _REMOVED_EXAMPLES, _HISTORIES = 20, 20, 10


def people_worth_showing(day: Day, manifest: Manifest, limit: int) -> list[Person]:
    """Up to `limit` users to look at: first those whose histories lost something, then, for up to half of the places,
    users whose slates differ most between the first two arms (found in the first shard); where nobody is in both, users
    of arms that would not be shown."""
    lost = _who_lost(day, manifest, limit)
    differ: list[str] = []
    if len(manifest.arms) > 1:
        one, other = (read_shard(day.storage, manifest, arm, 0, _RANKED) for arm in manifest.arms[:2])
        differ = [user for user in differ_most(one, other, limit) if user not in lost][: limit // 2]
    more = differ or _of_other_arms(day, manifest, lost)[: limit // 2]
    users = lost[: limit - len(more)] + more
    return read_people(day.config.output.root, day.date, users) if users else []


def _of_other_arms(day: Day, manifest: Manifest, users: list[str]) -> list[str]:
    """Of each arm that none of `users` is in, the first user with a slate in the first shard."""
    members = day.arms.members(pa.array(users, pa.string()))
    unseen = [arm for arm in manifest.arms if not members[arm].any()]
    columns = [read_shard(day.storage, manifest, arm, 0, ("user_id",))["user_id"] for arm in unseen]
    return [column[0].as_py() for column in columns if len(column)]


def _who_lost(day: Day, manifest: Manifest, limit: int) -> list[str]:
    """Up to `limit` users whose histories are worth showing, from as many shards as it takes."""
    lost: list[str] = []
    for shard in range(manifest.shards):
        if len(lost) >= limit:
            break
        lost += worth_showing(read_denoised(day.storage, manifest, shard), limit - len(lost))
    return lost


def report_data(night: Night, people: list[Person], planted: pa.Table | None = None) -> ReportData:
    """All that the report shows; `planted`: COMPARISON against a planted truth, where there is one."""
    day, manifest = night.day, night.manifest
    summary = read_summaries(day, manifest.run_id)
    earlier, drifted, drift_unknown = since_the_last(day.storage, day.date, summary)
    card = _card(night)
    return ReportData(
        name=day.config.name,
        date=day.date,
        run_id=manifest.run_id,
        published=True,
        decision=_decision(manifest),
        arms={path.arm: _in_words(path) for path in day.arms},
        facts=_facts(manifest) | _inputs(day),
        users_in=manifest.users.users_in,
        users_published=manifest.users.published,
        users_quarantined=manifest.users.quarantined,
        users_ineligible=manifest.users.ineligible,
        rows_read=sum(file.rows or 0 for file in manifest.inputs),
        rows_quarantined=manifest.quarantined_rows,
        summary=summary,
        max_quarantine_share=day.config.data.max_quarantine_share,
        quarantine_examples=_quarantine_examples(day),
        removed_examples=_removed_examples(day, manifest),
        examples=example_rows(people),
        before_after=_before_after(day, manifest),
        denoised_for={variant.name: ", ".join(day.arms.arms_of(variant)) for variant in day.arms.variants("denoise")},
        earlier=earlier,
        drift=drifted,
        drift_unknown=drift_unknown,
        timings=pa.Table.from_pylist(
            [dict(zip(TIMINGS.names, step, strict=True)) for step in night.timings.steps], TIMINGS
        ),
        losses=_losses(card),
        planted=COMPARISON.empty_table() if planted is None else planted,
        wording=_wording(day, manifest),
        asked=_asked(day, card),
    )


def since_the_last(storage: Storage, date: Date, summary: pa.Table) -> tuple[Date | None, pa.Table, str]:
    """The last published day before `date`, DRIFT of this day's SUMMARY since then, and why nothing is known of it."""
    dates = [there for there in published_dates(storage.root) if there < date]
    if not dates:
        return None, DRIFT.empty_table(), ""
    try:
        return dates[-1], drift(read_report(storage, dates[-1].isoformat()).summary, summary), ""
    except MissingFileError:  # published by a job that was killed before its report
        why = "that day has no report; jobs.daily for its date writes one"
    except DataError:
        why = "that day's report is of another version of rayrec; jobs.daily for its date writes one anew"
    return dates[-1], DRIFT.empty_table(), why


def _decision(manifest: Manifest) -> str:
    users = manifest.users
    left = users.users_in - users.published
    rest = f"; {left:,} of {users.users_in:,} users have none, for the reasons below" if left else ""
    return f"{users.published:,} users have slates for {manifest.dt}, in {len(manifest.arms)} arms{rest}."


def _in_words(path: ArmPath) -> str:
    denoise, retrieval = path.at("denoise").read(Denoise), path.at("retrieve").read(Retrieval)
    rerank, slate = path.at("rerank").read(Rerank), path.at("slate").read(Slate)
    llm = "no LLM" if rerank.method == "none" else f"LLM by {rerank.method}"
    parts = [f"denoising: {denoise.method}", f"{len(retrieval.sources)} sources", llm]
    if slate.diversify.method != "none":
        parts.append(f"diversified by {slate.diversify.method}")
    if slate.fallback is not None:
        parts.append(f"{slate.fallback.source} below {slate.fallback.below_events} events")
    return "; ".join([*parts, f"{slate.policy}, {slate.size} items"])


def _facts(manifest: Manifest) -> dict[str, str]:
    return {
        "engine": ", ".join(f"{name}: {count:,} prompts" for name, count in manifest.engine.items()) or "none",
        "fingerprint": manifest.fingerprint,
        "code": manifest.code_version,
        "prompt hash": manifest.prompt_hash or "none",
        **manifest.models,
        **manifest.versions,
        "published at": manifest.created_at,
    }


def _inputs(day: Day) -> dict[str, str]:
    left_out = day.window_files.left_out
    return {"input files": f"{len(day.files):,}; {left_out:,} more have other days in their paths and were left out"}


def _quarantine_examples(day: Day) -> pa.Table:
    """Up to a few rows of each reason."""
    chosen: dict[str, list[dict[str, object]]] = {}
    for info in day.storage.list(day.quarantine):
        with day.storage.open(info.path) as file:
            for batch in pq.ParquetFile(file).iter_batches(4096):
                for row in _first_of_each(batch):
                    chosen.setdefault(str(row["reason"]), []).append(row)
                break
    per_reason = max(1, _QUARANTINE_EXAMPLES // max(1, len(chosen)))
    return pa.Table.from_pylist([row for rows in chosen.values() for row in rows[:per_reason]], QUARANTINE)


def _first_of_each(batch: pa.RecordBatch) -> Iterator[dict[str, object]]:
    table = pa.Table.from_batches([batch])
    for reason in table["reason"].unique().to_pylist():
        yield from table.filter(pa.compute.equal(table["reason"], reason)).slice(0, 3).to_pylist()


def _removed_examples(day: Day, manifest: Manifest) -> pa.Table:
    titles = read_catalogue(day.storage, manifest)["title"]
    first = read_denoised(day.storage, manifest, 0)
    return removed_examples(first, titles, _REMOVED_EXAMPLES)


def _before_after(day: Day, manifest: Manifest) -> pa.Table:
    users = _who_lost(day, manifest, _HISTORIES)
    return before_after_rows(read_people(day.config.output.root, day.date, users) if users else [])


def _wording(day: Day, manifest: Manifest) -> pa.Table:
    titles = read_catalogue(day.storage, manifest)["title"]
    found = [wording(method, table, titles) for method, table in read_reread(day, manifest.run_id).items()]
    return pa.concat_tables([WORDING.empty_table(), *found])


def _card(night: Night) -> Card | None:
    """Of the tuned LLM; None where no arm asks one, or it was deleted since."""
    if night.models.llm is None:
        return None
    try:
        return artefact.read_card(night.day.storage, night.models.llm)
    except MissingFileError:
        return None


def _asked(day: Day, card: Card | None) -> pa.Table:
    if not anything_asked(day):
        return ASKED.empty_table()
    if card is None or card.facets is None:
        return asked(requests(day), None, facets(day).scheme, weighs=False)
    return asked(requests(day), card.taught, card.facets, weighs=True)


def _losses(card: Card | None) -> pa.Table:
    if card is None:
        return LOSSES.empty_table()
    return pa.table(
        {"step": [int(row["epoch"]) for row in card.curve], "loss": [float(row["loss"]) for row in card.curve]}, LOSSES
    )
