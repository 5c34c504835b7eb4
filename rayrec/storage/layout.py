"""Every path under `output.root`. No other module builds one (tests/storage/test_layout.py).

slates/dt=D/
    manifest.json                                  the publication: files that it does not name do not count
    arm=A/shard=0007-<run id>-<attempt>.parquet    SLATE
    _delta_log/00000000000000000007.json           a version of the Delta table of all dates (`output.tables`)
iceberg/                                           metadata of the Iceberg table (`output.tables`), and its catalog
    catalog.db
embeddings/, neighbours/, influences/              laid out like slates (rayrec.embeddings.embedding_tables)

runs/dt=D/<run id>/
    run.json                                       RunRecord: what the run is; written first
    status.json                                    how far the run is, and how it ended (rayrec.monitoring.run_status)
    receipts/shard=0007.json                       Receipt: this attempt has finished the shard
    catalogue.parquet                              ITEM, sorted by item_id: the run's item codes
    denoising_decisions/shard=0007.arrow           DENOISED_HISTORY: keep weight, influence and reason per event
    counterfactual_propensities/shard=0007.arrow   COUNTERFACTUAL_PROPENSITY: how other arms would have shown slates
    text_ablation/<method>-shard=0007.arrow        TEXT_ABLATION: scores with and without the description
    statistics/<stage>-shard=0007.parquet          RUN_STATISTICS: the counts of the report

work/dt=D/<data fingerprint>/                      shared by all runs over the same inputs; may be deleted
    catalogue.parquet                              ITEM
    instructions-<key>.parquet, .json              INSTRUCTION, and its counts
    understood_texts/<key>/part-0000.parquet       UNDERSTOOD_TEXT: what the instructions mean, in the order of texts
    shuffle/<split plan>/split=0007.shuffle        one input split, parted by shard (rayrec.data.shuffle)
    histories/shard=0007.arrow, .json              HISTORY, and its counts
    summary.json                                   counts of the whole ingest; written last
    training_sequences/<cutoff>-<denoising>/shard=0007.arrow    what the item-token ranker is tuned on
    training_examples/<run id>/<cutoff>/shard=0007.arrow        what the blender is fitted on
    feedback_targets/<run id>/<cutoff>/shard=0007.arrow         FEEDBACK_TARGETS: rewarded items of published slates
    feedback_targets/<run id>/counts.parquet                    RUN_STATISTICS: what they come from; written last

models/<kind>/<fingerprint>/                       item models, item content, blenders, embedding models
    meta.json, arrays-<attempt>.safetensors        the artifact exists when its meta.json does
    checkpoint.safetensors                         of an unfinished training
models/llm/<fingerprint>/                          tuned item-token rankers
    rayrec.json, <attempt>/<files>                 the checkpoint exists when its rayrec.json does
    stale.json                                     it was tuned on users who are erased; it is not loaded
    checkpoint.safetensors                         of an unfinished tuning
models/text_adapter/<fingerprint>/                 tuned adapters of text rerankers, with the same files
models/teacher/<digest>/<digest>.parquet           answers of an LLM teacher

quarantine/dt=D/
    <data fingerprint>/...parquet                  QUARANTINE: rows that broke their contract
    feedback/feedback.parquet, unmatched.parquet   feedback that broke its contract, or fits no slate
reports/dt=D/report.html, report.json, metrics.json
reports/pooled/from=D-to=D/metrics.json            several dates judged together
reports/pooled/from=D-to=D/report.html             the same to read
erasure/                                           the erasure list (rayrec.data.erasure_list)
    salt.json, requests/<id>.json, plans/<id>.json, certificates/<id>.json
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from typing import NamedTuple

Date = datetime.date

SLATES, RUNS, WORK, MODELS = "slates", "runs", "work", "models"
QUARANTINE, REPORTS, ERASURE = "quarantine", "reports", "erasure"
ICEBERG = "iceberg"
PRODUCTS = (SLATES, "embeddings", "neighbours", "influences")  # folders whose days have manifests
TOP_FOLDERS = frozenset((*PRODUCTS, RUNS, WORK, MODELS, QUARANTINE, REPORTS, ERASURE, ICEBERG))
LLM_KIND, TEXT_ADAPTER_KIND = "llm", "text_adapter"

# Paths are functions: `format` of a pattern. The type gives the arguments in order.
DatePath = Callable[[Date], str]
RunPath = Callable[[Date, str], str]  # date, run id; in `work` and `quarantine`: date, data fingerprint
RunShardPath = Callable[[Date, str, int], str]
FolderPath = Callable[[str], str]  # the section's folder
FolderKeyPath = Callable[[str, str], str]
FolderShardPath = Callable[[str, int], str]

_SHARD = "shard={:04d}"
_SPLIT = "split={:04d}"
_DAY = re.compile(r"[a-z]+/dt=(\d{4}-\d{2}-\d{2})/.+")
_PUBLISHED_FILE = re.compile(r"(.*/shard=(\d+)-)([0-9a-f]+)-([0-9a-f]+)\.parquet")


def top_folder(path: str) -> str:
    return path.split("/", 1)[0]


def file_mode(path: str) -> int:
    """Rights of a local file, before the umask.

    Only its owner reads the erasure list, and nobody outside the group reads reports and quarantined rows, which show
    users' data. Whoever serves the slates must read them: the umask decides.
    """
    return {ERASURE: 0o600, REPORTS: 0o640, QUARANTINE: 0o640}.get(top_folder(path), 0o666)


def path_date(path: str) -> Date | None:
    """The D of `<folder>/dt=D/...`; None in other paths."""
    match = _DAY.fullmatch(path)
    return Date.fromisoformat(match[1]) if match else None


# Publications
slates_folder: DatePath = f"{SLATES}/dt={{}}".format


def publication_folder(product: str, date: Date) -> str:
    """The folder of a product's publication on a date."""
    return f"{product}/dt={date.isoformat()}"


def manifest_path(date: Date, product: str = SLATES) -> str:
    return f"{publication_folder(product, date)}/manifest.json"


def slates_date(folder: str) -> Date | None:
    """The date if `folder` is that of a date's slates, else None."""
    date = path_date(f"{folder}/-")
    return date if date is not None and folder == slates_folder(date) else None


def published_path(product: str, date: Date, arm_key: str, arm: str, shard: int, run_id: str, attempt: str) -> str:
    """Path of a published file. `arm_key`: the product's name for arms, such as "arm" or "instruction"."""
    return f"{publication_folder(product, date)}/{arm_key}={arm}/shard={shard:04d}-{run_id}-{attempt}.parquet"


class PublishedPath(NamedTuple):
    date: Date
    shard: int
    run_id: str


def parse_published_path(path: str) -> PublishedPath | None:
    """The arguments of `published_path`; None for other paths."""
    match, date = _PUBLISHED_FILE.fullmatch(path), path_date(path)
    return PublishedPath(date, int(match[2]), match[3]) if match and date else None


def rewritten_path(path: str, attempt: str) -> str:
    """The path of another attempt for the same arm and shard."""
    match = _PUBLISHED_FILE.fullmatch(path)
    stem = f"{match[1]}{match[3]}" if match else path.removesuffix(".parquet")
    return f"{stem}-{attempt}.parquet"


# Tables of a data lake: in the folder of the slates, since a Delta table has its files below its own folder.
DELTA_LOG = f"{SLATES}/_delta_log"
delta_version_path: Callable[[int], str] = f"{DELTA_LOG}/{{:020d}}.json".format
ICEBERG_CATALOG = f"{ICEBERG}/catalog.db"

# Runs
_RUN = f"{RUNS}/dt={{}}/{{}}"
run_folder: RunPath = _RUN.format
run_record_path: RunPath = f"{_RUN}/run.json".format
run_status_path: RunPath = f"{_RUN}/status.json".format
receipts_folder: RunPath = f"{_RUN}/receipts".format
receipt_path: RunShardPath = f"{_RUN}/receipts/{_SHARD}.json".format
run_catalogue_path: RunPath = f"{_RUN}/catalogue.parquet".format
denoising_decisions_path: RunShardPath = f"{_RUN}/denoising_decisions/{_SHARD}.arrow".format
counterfactual_propensities_path: RunShardPath = f"{_RUN}/counterfactual_propensities/{_SHARD}.arrow".format
text_ablation_folder: RunPath = f"{_RUN}/text_ablation".format
text_ablation_path: Callable[[Date, str, str, int], str] = f"{_RUN}/text_ablation/{{}}-{_SHARD}.arrow".format  # method
run_statistics_folder: RunPath = f"{_RUN}/statistics".format
run_statistics_path: Callable[[Date, str, str, int], str] = f"{_RUN}/statistics/{{}}-{_SHARD}.parquet".format  # stage


def is_run_status(path: str) -> bool:
    """Whether `path` is a run_status_path."""
    parts = path.split("/")
    return len(parts) == 4 and parts[0] == RUNS and parts[3] == "status.json"


def text_ablation_method(path: str) -> str:
    """The method in a `text_ablation_path`."""
    return path.rpartition("/")[2].partition("-shard=")[0]


# Work: in a work_folder
work_folder: RunPath = f"{WORK}/dt={{}}/{{}}".format
catalogue_path: FolderPath = "{}/catalogue.parquet".format
instructions_path: FolderKeyPath = "{}/instructions-{}.parquet".format
understood_texts_path: Callable[[str, str, int], str] = "{}/understood_texts/{}/part-{:04d}.parquet".format  # key, part
instruction_counts_path: FolderKeyPath = "{}/instructions-{}.json".format
shuffle_folder: FolderKeyPath = "{}/shuffle/{}".format  # split plan
shuffle_path: Callable[[str, str, int], str] = f"{{}}/shuffle/{{}}/{_SPLIT}.shuffle".format  # split plan, split
histories_folder: FolderPath = "{}/histories".format
histories_path: FolderShardPath = f"{{}}/histories/{_SHARD}.arrow".format
history_counts_path: FolderShardPath = f"{{}}/histories/{_SHARD}.json".format
ingest_summary_path: FolderPath = "{}/summary.json".format
training_sequences_path: Callable[[str, int, str, int], str] = (  # cutoff, denoising, shard
    f"{{}}/training_sequences/{{}}-{{}}/{_SHARD}.arrow".format
)
training_examples_folder: FolderKeyPath = "{}/training_examples/{}".format  # run id
training_examples_path: Callable[[str, int, int], str] = f"{{}}/{{}}/{_SHARD}.arrow".format  # that folder, cutoff
feedback_targets_folder: FolderKeyPath = "{}/feedback_targets/{}".format  # run id
feedback_targets_path: Callable[[str, int, int], str] = f"{{}}/{{}}/{_SHARD}.arrow".format  # that folder, cutoff
feedback_counts_path: FolderPath = "{}/counts.parquet".format  # in that folder

# Models: in a model_folder
_MODEL = f"{MODELS}/{{}}/{{}}"
model_folder: Callable[[str, str], str] = _MODEL.format  # kind, fingerprint
model_kind_folder: Callable[[str], str] = f"{MODELS}/{{}}".format
artifact_meta_path: Callable[[str, str], str] = f"{_MODEL}/meta.json".format
artifact_arrays_path: Callable[[str, str, str], str] = f"{_MODEL}/arrays-{{}}.safetensors".format  # attempt
training_checkpoint_path: FolderPath = "{}/checkpoint.safetensors".format
llm_record_path: FolderPath = "{}/rayrec.json".format
llm_stale_path: FolderPath = "{}/stale.json".format
llm_file_path: Callable[[str, str, str], str] = "{}/{}/{}".format  # attempt, name
teacher_answers_folder: Callable[[str], str] = f"{MODELS}/teacher/{{}}".format
teacher_answers_path: FolderKeyPath = "{}/{}.parquet".format  # that folder, digest of the file's answers

# Quarantine: in a quarantine_folder
quarantine_folder: RunPath = f"{QUARANTINE}/dt={{}}/{{}}".format
quarantined_items_path: FolderPath = "{}/items.parquet".format
quarantined_split_path: Callable[[str, str, int], str] = f"{{}}/splits-{{}}/{_SPLIT}.parquet".format  # split plan
quarantined_duplicates_path: FolderShardPath = f"{{}}/duplicates-{_SHARD}.parquet".format
quarantined_instructions_path: FolderKeyPath = "{}/instructions-{}.parquet".format
quarantined_prompts_path: Callable[[str, str, int], str] = f"{{}}/prompts-{{}}-{_SHARD}.parquet".format  # run id
# Feedback that broke its contract ("feedback") or matches no slate ("unmatched").
quarantined_feedback_path: RunPath = f"{QUARANTINE}/dt={{}}/feedback/{{}}.parquet".format

# Reports
report_page_path: DatePath = f"{REPORTS}/dt={{}}/report.html".format
report_data_path: DatePath = f"{REPORTS}/dt={{}}/report.json".format
metrics_path: DatePath = f"{REPORTS}/dt={{}}/metrics.json".format


def pooled_metrics_path(first: Date, last: Date) -> str:
    return f"{REPORTS}/pooled/from={first}-to={last}/metrics.json"


def pooled_report_path(first: Date, last: Date) -> str:
    return f"{REPORTS}/pooled/from={first}-to={last}/report.html"


def report_data_date(path: str) -> Date | None:
    """The date if `path` is a report_data_path, else None."""
    date = path_date(path)
    return date if date is not None and path == report_data_path(date) else None


# Erasure
ERASURE_SALT = f"{ERASURE}/salt.json"
ERASURE_REQUESTS = f"{ERASURE}/requests"
ERASURE_CERTIFICATES = f"{ERASURE}/certificates"
erasure_request_path: Callable[[str], str] = f"{ERASURE}/requests/{{}}.json".format  # request id
erasure_plan_path: Callable[[str], str] = f"{ERASURE}/plans/{{}}.json".format
erasure_certificate_path: Callable[[str], str] = f"{ERASURE}/certificates/{{}}.json".format


def erasure_request_id(path: str) -> str:
    return path.rsplit("/", 1)[1].removesuffix(".json")
