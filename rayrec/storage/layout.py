"""Every path under `output.root`. No other module builds one (tests/storage/test_layout.py).

slates/dt=D/
    manifest.json                                  the publication: files that it does not name do not count
    arm=A/shard=0007-<run id>-<attempt>.parquet    SLATE
embeddings/, neighbours/, influences/              laid out like slates (rayrec.embeddings.embedding_tables)

runs/dt=D/<run id>/
    run.json                                       RunRecord: what the run is; written first
    receipts/shard=0007.json                       Receipt: this attempt has finished the shard
    catalogue.parquet                              ITEM, sorted by item_id: the run's item codes
    denoising_decisions/shard=0007.arrow           DENOISED_HISTORY: keep weight, influence and reason per event
    counterfactual_propensities/shard=0007.arrow   COUNTERFACTUAL_PROPENSITY: how other arms would have shown slates
    text_ablation/<method>-shard=0007.arrow        TEXT_ABLATION: scores with and without the description
    statistics/<stage>-shard=0007.parquet          RUN_STATISTICS: the counts of the report

work/dt=D/<data fingerprint>/                      shared by all runs over the same inputs; may be deleted
    catalogue.parquet                              ITEM
    instructions-<key>.parquet, .json              INSTRUCTION, and its counts
    shuffle/<split plan>/split=0007.shuffle        one input split, parted by shard (rayrec.data.shuffle)
    histories/shard=0007.arrow, .json              HISTORY, and its counts
    summary.json                                   counts of the whole ingest; written last
    training_sequences/<cutoff>-<denoising>/shard=0007.arrow    what the item-token ranker is tuned on
    training_examples/<run id>/<cutoff>/shard=0007.arrow        what the blender is fitted on

models/<kind>/<fingerprint>/                       item models, blenders, embedding models
    meta.json, arrays-<attempt>.safetensors        the artifact exists when its meta.json does
    checkpoint.safetensors                         of an unfinished training
models/llm/<fingerprint>/                          tuned item-token rankers
    rayrec.json, <attempt>/<files>                 the checkpoint exists when its rayrec.json does
    stale.json                                     it was tuned on users who are erased; it is not loaded
    checkpoint.safetensors                         of an unfinished tuning
models/teacher/<digest>/<digest>.parquet           answers of an LLM teacher

quarantine/dt=D/
    <data fingerprint>/...parquet                  QUARANTINE: rows that broke their contract
    feedback/feedback.parquet, unmatched.parquet   feedback that broke its contract, or fits no slate
reports/dt=D/report.html, report.json, metrics.json
erasure/                                           the erasure list (rayrec.publishing.erasure_list)
    salt.json, requests/<id>.json, plans/<id>.json, certificates/<id>.json
"""

from __future__ import annotations

import datetime
import re
from typing import NamedTuple

Date = datetime.date

SLATES, RUNS, WORK, MODELS = "slates", "runs", "work", "models"
QUARANTINE, REPORTS, ERASURE = "quarantine", "reports", "erasure"
PRODUCTS = (SLATES, "embeddings", "neighbours", "influences")  # folders whose days have manifests
LLM_KIND = "llm"

_DAY = re.compile(r"[a-z]+/dt=(\d{4}-\d{2}-\d{2})/.+")
_PUBLISHED_FILE = re.compile(r"(.*/shard=(\d+)-)([0-9a-f]+)-([0-9a-f]+)\.parquet")


def top_folder(path: str) -> str:
    return path.split("/", 1)[0]


def path_date(path: str) -> Date | None:
    """The D of `<folder>/dt=D/...`; None in other paths."""
    match = _DAY.fullmatch(path)
    return Date.fromisoformat(match[1]) if match else None


# Publications


def publication_folder(product: str, date: Date) -> str:
    """All that is published of a product on a date."""
    return f"{product}/dt={date.isoformat()}"


def slates_folder(date: Date) -> str:
    return publication_folder(SLATES, date)


def manifest_path(date: Date, product: str = SLATES) -> str:
    return f"{publication_folder(product, date)}/manifest.json"


def manifest_date(path: str) -> Date | None:
    """The date if `path` is a manifest of slates, else None."""
    date = path_date(path)
    return date if date is not None and path == manifest_path(date) else None


def published_path(product: str, date: Date, arm_key: str, arm: str, shard: int, run_id: str, attempt: str) -> str:
    """`arm_key`: what the product calls its arms, such as "arm" or "instruction"."""
    return f"{publication_folder(product, date)}/{arm_key}={arm}/shard={shard:04d}-{run_id}-{attempt}.parquet"


class PublishedPath(NamedTuple):
    date: Date
    shard: int
    run_id: str


def parse_published_path(path: str) -> PublishedPath | None:
    """What `published_path` was given; None for other files."""
    match, date = _PUBLISHED_FILE.fullmatch(path), path_date(path)
    return PublishedPath(date, int(match[2]), match[3]) if match and date else None


def rewritten_path(path: str, attempt: str) -> str:
    """The path of the same arm and shard, of another attempt."""
    match = _PUBLISHED_FILE.fullmatch(path)
    stem = f"{match[1]}{match[3]}" if match else path.removesuffix(".parquet")
    return f"{stem}-{attempt}.parquet"


# Runs


def run_folder(date: Date, run_id: str) -> str:
    return f"{RUNS}/dt={date.isoformat()}/{run_id}"


def run_record_path(date: Date, run_id: str) -> str:
    return f"{run_folder(date, run_id)}/run.json"


def receipts_folder(date: Date, run_id: str) -> str:
    return f"{run_folder(date, run_id)}/receipts"


def receipt_path(date: Date, run_id: str, shard: int) -> str:
    return f"{receipts_folder(date, run_id)}/shard={shard:04d}.json"


def run_catalogue_path(date: Date, run_id: str) -> str:
    return f"{run_folder(date, run_id)}/catalogue.parquet"


def denoising_decisions_path(date: Date, run_id: str, shard: int) -> str:
    return f"{run_folder(date, run_id)}/denoising_decisions/shard={shard:04d}.arrow"


def counterfactual_propensities_path(date: Date, run_id: str, shard: int) -> str:
    return f"{run_folder(date, run_id)}/counterfactual_propensities/shard={shard:04d}.arrow"


def text_ablation_folder(date: Date, run_id: str) -> str:
    return f"{run_folder(date, run_id)}/text_ablation"


def text_ablation_path(date: Date, run_id: str, method: str, shard: int) -> str:
    return f"{text_ablation_folder(date, run_id)}/{method}-shard={shard:04d}.arrow"


def text_ablation_method(path: str) -> str:
    """The method that `text_ablation_path` was given."""
    return path.rpartition("/")[2].partition("-shard=")[0]


def run_statistics_folder(date: Date, run_id: str) -> str:
    return f"{run_folder(date, run_id)}/statistics"


def run_statistics_path(date: Date, run_id: str, stage: str, shard: int) -> str:
    return f"{run_statistics_folder(date, run_id)}/{stage}-shard={shard:04d}.parquet"


# Work: `work` is a work_folder


def work_folder(date: Date, data_fingerprint: str) -> str:
    return f"{WORK}/dt={date.isoformat()}/{data_fingerprint}"


def catalogue_path(work: str) -> str:
    return f"{work}/catalogue.parquet"


def instructions_path(work: str, key: str) -> str:
    return f"{work}/instructions-{key}.parquet"


def instruction_counts_path(work: str, key: str) -> str:
    return f"{work}/instructions-{key}.json"


def shuffle_folder(work: str, split_plan: str) -> str:
    return f"{work}/shuffle/{split_plan}"


def shuffle_path(work: str, split_plan: str, split: int) -> str:
    return f"{shuffle_folder(work, split_plan)}/split={split:04d}.shuffle"


def histories_folder(work: str) -> str:
    return f"{work}/histories"


def histories_path(work: str, shard: int) -> str:
    return f"{histories_folder(work)}/shard={shard:04d}.arrow"


def history_counts_path(work: str, shard: int) -> str:
    return f"{histories_folder(work)}/shard={shard:04d}.json"


def ingest_summary_path(work: str) -> str:
    return f"{work}/summary.json"


def training_sequences_path(work: str, cutoff: int, denoising: str, shard: int) -> str:
    return f"{work}/training_sequences/{cutoff}-{denoising}/shard={shard:04d}.arrow"


def training_examples_folder(work: str, run_id: str) -> str:
    return f"{work}/training_examples/{run_id}"


def training_examples_path(folder: str, cutoff: int, shard: int) -> str:
    """`folder`: a training_examples_folder."""
    return f"{folder}/{cutoff}/shard={shard:04d}.arrow"


# Models


def model_folder(kind: str, fingerprint: str) -> str:
    return f"{MODELS}/{kind}/{fingerprint}"


def model_kind_folder(kind: str) -> str:
    return f"{MODELS}/{kind}"


def artifact_meta_path(kind: str, fingerprint: str) -> str:
    return f"{model_folder(kind, fingerprint)}/meta.json"


def artifact_arrays_path(kind: str, fingerprint: str, attempt: str) -> str:
    return f"{model_folder(kind, fingerprint)}/arrays-{attempt}.safetensors"


def training_checkpoint_path(model: str) -> str:
    """`model`: a model_folder."""
    return f"{model}/checkpoint.safetensors"


def llm_record_path(model: str) -> str:
    return f"{model}/rayrec.json"


def llm_stale_path(model: str) -> str:
    return f"{model}/stale.json"


def llm_file_path(model: str, attempt: str, name: str) -> str:
    return f"{model}/{attempt}/{name}"


def teacher_answers_folder(teacher: str) -> str:
    return model_folder("teacher", teacher)


def teacher_answers_path(folder: str, answers: str) -> str:
    """`folder`: a teacher_answers_folder; `answers`: a digest of the answers in the file."""
    return f"{folder}/{answers}.parquet"


# Quarantine: `quarantine` is a quarantine_folder


def quarantine_folder(date: Date, data_fingerprint: str) -> str:
    return f"{QUARANTINE}/dt={date.isoformat()}/{data_fingerprint}"


def quarantined_items_path(quarantine: str) -> str:
    return f"{quarantine}/items.parquet"


def quarantined_split_path(quarantine: str, split_plan: str, split: int) -> str:
    return f"{quarantine}/splits-{split_plan}/split={split:04d}.parquet"


def quarantined_duplicates_path(quarantine: str, shard: int) -> str:
    return f"{quarantine}/duplicates-shard={shard:04d}.parquet"


def quarantined_instructions_path(quarantine: str, key: str) -> str:
    return f"{quarantine}/instructions-{key}.parquet"


def quarantined_prompts_path(quarantine: str, run_id: str, shard: int) -> str:
    return f"{quarantine}/prompts-{run_id}-shard={shard:04d}.parquet"


def quarantined_feedback_path(date: Date, name: str) -> str:
    """`name`: "feedback" (broke its contract) or "unmatched" (fits no slate)."""
    return f"{QUARANTINE}/dt={date.isoformat()}/feedback/{name}.parquet"


# Reports


def report_folder(date: Date) -> str:
    return f"{REPORTS}/dt={date.isoformat()}"


def report_page_path(date: Date) -> str:
    return f"{report_folder(date)}/report.html"


def report_data_path(date: Date) -> str:
    return f"{report_folder(date)}/report.json"


def report_data_date(path: str) -> Date | None:
    """The date if `path` is a report_data_path, else None."""
    date = path_date(path)
    return date if date is not None and path == report_data_path(date) else None


def metrics_path(date: Date) -> str:
    return f"{report_folder(date)}/metrics.json"


# Erasure

ERASURE_SALT = f"{ERASURE}/salt.json"
ERASURE_REQUESTS = f"{ERASURE}/requests"
ERASURE_CERTIFICATES = f"{ERASURE}/certificates"


def erasure_request_path(request: str) -> str:
    return f"{ERASURE_REQUESTS}/{request}.json"


def erasure_request_id(path: str) -> str:
    return path.rsplit("/", 1)[1].removesuffix(".json")


def erasure_plan_path(request: str) -> str:
    return f"{ERASURE}/plans/{request}.json"


def erasure_certificate_path(request: str) -> str:
    return f"{ERASURE_CERTIFICATES}/{request}.json"
