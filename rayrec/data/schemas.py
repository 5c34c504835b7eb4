"""Arrow schemas of the tables that stages exchange.

A *ragged* column is a list column whose rows have different lengths. In one row, all list columns that describe the
same events (or the same candidates) have the same length and order.

Inside a run an item is its *code*: int32, its row number in the run's catalogue, which is sorted by item_id.
"""

from __future__ import annotations

import pyarrow as pa

TS = pa.timestamp("us", tz="UTC")
MICROSECONDS_PER_DAY = 86_400_000_000  # times and cutoffs are whole microseconds since the epoch, UTC

ITEM = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("description", pa.string()),
        pa.field("available", pa.bool_(), nullable=False),
        pa.field("attributes", pa.map_(pa.string(), pa.string())),
        pa.field("available_from", TS),  # the launch; null: always
    ]
)
"""The catalogue: one row an item, sorted by item_id. The row number is the item's code."""

INTERACTION = pa.schema(
    [
        pa.field("user_id", pa.dictionary(pa.int32(), pa.string())),
        pa.field("item_id", pa.dictionary(pa.int32(), pa.string())),
        pa.field("ts", TS),
        pa.field("event", pa.int8()),  # index into the run's event names, in the order of `data.events`
        pa.field("value", pa.float32()),  # rating, quantity; NaN if missing
        pa.field("dwell_ms", pa.int32()),  # -1 if missing
        pa.field("source_file", pa.int32()),  # index into the manifest's inputs
        pa.field("source_row", pa.int64()),  # 1-based data row within the file
        pa.field("rejected", pa.bool_()),  # quarantined; present only so that its user is counted
    ]
)
"""Validated events: one row per event."""

QUARANTINE = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("user_id", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string()),
        pa.field("raw", pa.string()),  # the input row as JSON, at most 4,096 characters
    ]
)

HISTORY = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item", pa.list_(pa.int32())),
        pa.field("ts", pa.list_(pa.int64())),  # microseconds since the epoch, UTC, ascending
        pa.field("event", pa.list_(pa.int8())),
        pa.field("value", pa.list_(pa.float32())),
        pa.field("dwell_ms", pa.list_(pa.int32())),
        pa.field("older_items", pa.list_(pa.int32())),  # of the window's older events: distinct, ascending
    ]
)
"""Histories: one row per user with the newest N events, oldest first; ties in ts keep (file, row) order.

`older_items` is not aligned with the events: it completes what the user has seen in the window."""

DENOISED_HISTORY = pa.schema(
    [
        *HISTORY,
        pa.field("variant", pa.string(), nullable=False),
        pa.field("keep_weight", pa.list_(pa.float32())),  # in [0, 1]; 0 = removed
        pa.field("influence", pa.list_(pa.float32())),  # leave-one-out self-consistency (method's own scale)
        pa.field("negative_influence", pa.list_(pa.float32())),  # > 0: removal helps the trusted events
        pa.field("reason", pa.list_(pa.int8())),  # index into rayrec.denoising.denoiser.REASONS; 0 = retained
    ]
)
"""Histories with a denoising decision per event: one row per (user, variant)."""

SLATE = pa.schema(
    [
        pa.field("dt", pa.date32(), nullable=False),
        pa.field("arm", pa.string(), nullable=False),
        pa.field("slate_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("rank", pa.int16(), nullable=False),  # from 1
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("source", pa.string(), nullable=False),  # the retriever that ranked the item highest
        pa.field("propensity", pa.float32(), nullable=False),  # P(this item at this rank | the ranks above)
    ]
)
"""Published slates: one row per item of a slate, sorted by (user_id, rank)."""

COUNTERFACTUAL_PROPENSITY = pa.schema(
    [
        pa.field("slate_id", pa.string(), nullable=False),  # of a randomised slate
        pa.field("rank", pa.int16(), nullable=False),
        pa.field("target_arm", pa.dictionary(pa.int8(), pa.string()), nullable=False),  # another arm
        pa.field("propensity", pa.float32(), nullable=False),  # P(the target shows this item here | the ranks above)
        # Share of the target's first choice on items that this slate's arm never shows first; the same at all ranks.
        pa.field("unsupported", pa.float32(), nullable=False),
        # Hashes of items that the target would show here, drawn given the ranks above; null: it shows none, or lower
        # than rank 10.
        pa.field("drawn", pa.list_(pa.uint64())),
        # P(this item here), whatever is above, of the target and of the slate's own arm; null: not known for the
        # policy, or lower than rank 10.
        pa.field("marginal", pa.float32()),
        pa.field("own_marginal", pa.float32()),
    ]
)
"""How other arms would have shown a published slate: the numerators of off-policy weights."""

INSTRUCTION = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),  # a user, or ALL_USERS
        pa.field("arm", pa.string()),  # null: every arm
        pa.field("preference", pa.string()),  # user profile text; one of the two is set
        pa.field("intention", pa.string()),
    ]
)
"""Instructions: one row per (user, arm), sorted by both, null last."""

UNDERSTOOD_TEXT = pa.schema(
    [
        pa.field("text", pa.string(), nullable=False),  # a request or a user profile text
        pa.field("facet", pa.list_(pa.int32())),  # numbers in the facet scheme of the run's catalogue, ascending
        pa.field("weight", pa.list_(pa.float32())),  # aligned: from -1 (unwanted) to 1 (wanted)
        pa.field("not_understood", pa.list_(pa.string())),  # the clauses that mean no facet
        pa.field("title", pa.list_(pa.list_(pa.string()))),  # words that titles are to have or not to have
        pa.field("title_weight", pa.list_(pa.float32())),  # aligned: 1 or -1
        pa.field("searchable", pa.bool_(), nullable=False),  # an item's text has most of its words
    ]
)
"""What the distinct texts of the instruction table mean, sorted by text."""

ALL_USERS = "*"
"""The user_id of instructions for every user."""

FEEDBACK = pa.schema(
    [
        pa.field("slate_id", pa.string(), nullable=False),
        pa.field("impression_id", pa.string(), nullable=False),  # one showing of the slate; "" where it is not logged
        pa.field("rank", pa.int16(), nullable=False),  # from 1; 0 where it is not logged
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("reward", pa.float32(), nullable=False),  # of this item in this showing: clicks, an amount
        pa.field("propensity", pa.float32()),  # of the logging policy; null where it is not logged
    ]
)
"""Valid logged feedback: one row per item of a showing."""


TUNING_SEQUENCE = pa.schema(
    [
        pa.field("item", pa.list_(pa.int32())),  # positive events only, oldest first
        pa.field("ts", pa.list_(pa.int64())),
        pa.field("keep_weight", pa.list_(pa.float32())),  # 1 at and after the cutoff
        pa.field("order", pa.uint64()),  # hash of the user_id
    ]
)
"""Training data of the item-token ranker: one row per user."""

SIMULATED_REQUEST, CONSUMED_ITEMS, CONSUMED = "simulated_request", "consumed_items", "consumed"
TRAINING_COLUMNS = (
    pa.field(SIMULATED_REQUEST, pa.string()),  # null: without a request
    pa.field(CONSUMED_ITEMS, pa.list_(pa.int32())),  # within the horizon; with a request: only matching ones
)
"""Columns of training examples besides those of histories and candidates."""

FEEDBACK_TARGETS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item", pa.int32(), nullable=False),
        pa.field("target", pa.float32(), nullable=False),  # above 0: rewards times importance weights
    ]
)
"""What users did with published slates, as targets of the blender: one row per rewarded (user, item) after a cutoff."""
FEEDBACK_TARGET = "feedback_target"  # ragged float32 column of training examples, aligned with `candidate`


CONTENT = "content."
"""Prefix of the columns of content features."""


def candidate_schema(
    sources: tuple[str, ...], *, content: tuple[str, ...] = (), for_training: bool = False
) -> pa.Schema:
    """Candidates: one row per (user, retrieve variant), with retained history and one score column per retriever.

    `score.<source>` and `content.<feature>` are ragged float32, aligned with `candidate`; every retriever scores every
    candidate of the union. A score is null if the variant does not have the source.
    """
    return pa.schema(
        [
            pa.field("user_id", pa.string(), nullable=False),
            pa.field("variant", pa.string(), nullable=False),
            pa.field("item", pa.list_(pa.int32())),  # retained positive history, oldest first
            pa.field("ts", pa.list_(pa.int64())),
            pa.field("candidate", pa.list_(pa.int32())),
            pa.field("source", pa.list_(pa.int8())),  # index into the variant's sources: the one that ranked it highest
            *(pa.field(f"score.{name}", pa.list_(pa.float32())) for name in sources),
            *(pa.field(f"{CONTENT}{name}", pa.list_(pa.float32())) for name in content),
            *(TRAINING_COLUMNS if for_training else ()),
        ]
    )


def reranked_schema(sources: tuple[str, ...]) -> pa.Schema:
    """Output of a scorer: candidates plus `llm_score` (ragged float32, null if the prompt failed) and `error`."""
    schema = candidate_schema(sources).append(pa.field("llm_score", pa.list_(pa.float32())))
    return schema.append(pa.field("error", pa.string()))


def scored_schema(candidates: pa.Schema) -> pa.Schema:
    """Candidates with LLM scores: one row per (user, retrieve variant, scoring request)."""
    return pa.schema(
        [
            *candidates,
            pa.field("scoring_request", pa.string()),  # null: rows of arms without an LLM
            pa.field("llm_score", pa.list_(pa.float32())),  # aligned with `candidate`; null if the prompt failed
            pa.field("has_request", pa.bool_()),  # whether the user's instruction holds a request
            pa.field("scorer", pa.string()),  # engine and method; null if not scored
            pa.field("error", pa.string()),  # why the prompt failed, where the user is in an arm that uses the scores
        ]
    )


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Reorder the table's columns to the schema's. Raises ValueError for missing columns and other types."""
    if missing := [name for name in schema.names if name not in table.column_names]:
        raise ValueError(f"a stage's table has no columns {', '.join(missing)}")
    return pa.table([table[name] for name in schema.names], schema=schema)
