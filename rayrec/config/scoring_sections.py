"""The sections from denoising to the blend, `instruction` and `output`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializeAsAny,
    StringConstraints,
    field_validator,
    model_validator,
)

from rayrec.config.feedback_learning_section import FeedbackLearning
from rayrec.config.registry import method_name, method_settings, registry
from rayrec.config.section import Checkpoint, MethodSettings, Section, StorageUrl

_RESERVED = ("llm", "pinned")  # values of a slate's `source` column for items without a retrieval source


class Denoise(Section):
    """Which interactions are removed from a history before any later stage."""

    method: Annotated[str, method_name("denoise.method")] = "auto"
    """The denoising method; `auto` takes the one that helps at earlier cutoffs, `none` retains every interaction."""
    settings: Annotated[SerializeAsAny[MethodSettings], method_settings("denoise.method", "method")] = Field(
        {}, validate_default=True
    )
    """Settings of the method."""


class RetrieverSettings(MethodSettings):
    """Settings that every source has, in addition to those of its retriever."""

    method: str = ""
    """The retriever; default: the source's name."""
    top_k: int | None = Field(None, ge=0)
    """How many of its best items are candidates; `null`: `candidates_per_source`; 0: the source only scores the
    candidates of others."""

    scoring_only: ClassVar[frozenset[str]] = frozenset({"method", "top_k"})  # keys that a fit does not depend on

    @property
    def fit_settings(self) -> dict[str, Any]:
        """The settings that a fit depends on, as plain data: sources with equal ones share one fit."""
        return self.model_dump(mode="json", exclude=set(self.scoring_only))


def _retriever_settings(given: Any) -> Any:
    """Validate by the settings class of the retriever that `method` names."""
    if isinstance(given, Mapping):
        retrievers = registry("retrieval.sources.NAME.method")
        return retrievers.settings_class(retrievers.known(str(given["method"]))).model_validate(given)
    return given


def _not_reserved(name: str) -> str:
    if name in _RESERVED:
        raise ValueError(f"{name!r} cannot be a source's name: use another than {' and '.join(_RESERVED)}")
    return name


SourceName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,40}$"), AfterValidator(_not_reserved)]
Source = Annotated[SerializeAsAny[RetrieverSettings], BeforeValidator(_retriever_settings)]


class Retrieval(Section):
    """Candidate retrieval: the best items of each source, scored by every source."""

    sources: dict[SourceName, Source] = Field(
        {
            "ease": {},
            "ease_recent": {"method": "ease", "history_half_life_days": 14.0},
            "item_knn": {"top_k": 0},
            "user_knn_2d": {"method": "user_knn", "half_life_days": 2.0},
            "user_knn_7d": {"method": "user_knn", "half_life_days": 7.0},
            "user_knn_28d": {"method": "user_knn", "half_life_days": 28.0, "top_k": 0},
            "popularity": {"top_k": 0},
            "recent_popularity_1d": {"method": "recent_popularity", "half_life_days": 1.0},
            "recent_popularity_8d": {"method": "recent_popularity", "half_life_days": 8.0},
        },
        validate_default=True,
        min_length=1,
        max_length=127,  # a candidate's source is an int8
    )
    """The sources by name, each with the settings of its retriever. A given value replaces the whole default: to add a
    source, copy it."""
    candidates_per_source: int = Field(100, ge=1)
    """How many of each source's best items are candidates. Later stages take time in proportion."""
    request_candidates: int = Field(100, ge=0)
    """How many items that match the words of a request are added as candidates; 0: none."""
    launch_days: float = Field(1.0, ge=0)
    """Items with a later `available_from` than this many days after the date are not proposed; 1: what launches on the
    date itself is. Longer where slates are shown for longer, or launches may be announced."""
    exclude_seen: bool = True
    """Whether items of the user's history are excluded, including interactions that denoising removes."""

    @field_validator("sources", mode="before")
    @classmethod
    def _named_by_their_method(cls, sources: Any) -> Any:
        """Default the `method` of a source to the source's name."""
        if not isinstance(sources, Mapping):
            return sources
        return {
            name: {"method": name, **source} if isinstance(source, Mapping) else source
            for name, source in sources.items()
        }

    @model_validator(mode="after")
    def _proposes(self) -> Retrieval:
        if all(source.top_k == 0 for source in self.sources.values()):
            raise ValueError("no source proposes candidates: give one of retrieval.sources a top_k above 0")
        return self


class Fit(Section):
    """Bounds of the item models' fit."""

    max_events: int = Field(20_000_000, ge=1)
    """Maximum number of training interactions; beyond it whole users are left out, by a stable hash."""


BEST = "_best"
"""Suffix of content features that take the closest item of the history, not the mean over it."""
ContentFeature = Literal[
    "category", "attribute", "word", "char", "category_best", "attribute_best", "word_best", "char_best"
]


class Blend(Section):
    """How the final score is learned: at earlier cutoffs, with models fitted on the data known at each."""

    method: Annotated[str, method_name("blend.method")] = "logit"
    """How the features become a score: `logit`, a weighted sum; or a method that adds to it."""
    settings: Annotated[SerializeAsAny[MethodSettings], method_settings("blend.method", "method")] = Field(
        {}, validate_default=True
    )
    """Settings of the method."""
    cutoffs: int = Field(2, ge=0)
    """Number of training cutoffs, one horizon apart. Each costs a fit and a tuning; 0: default weights."""
    horizon_days: float = Field(7.0, gt=0)
    """Days after a cutoff whose interactions are the target. Longer where users interact rarely."""
    min_events: int = Field(3, ge=0)
    """Users with fewer positive interactions before the cutoff give no training examples."""
    max_users: int = Field(40_000, ge=1)
    """Maximum number of users per cutoff, chosen by a stable hash."""
    l2: float = Field(1e-3, gt=0)
    """L2 regularization of the weights."""
    content_features: tuple[ContentFeature, ...] = ("category", "attribute", "word", "char")
    """Content features: the closeness of a candidate's category, attributes, title words or character 4-grams to those
    of the history, in the mean or (`_best`) to its closest item. `[]`: none."""
    feedback: FeedbackLearning | None = None
    """Learning from the feedback on published slates; `null`: none."""

    @model_validator(mode="before")
    @classmethod
    def _former_name(cls, given: Any) -> Any:
        """Configs of an earlier version call the cutoffs `cuts`."""
        if isinstance(given, Mapping) and "cuts" in given and "cutoffs" not in given:
            return {"cutoffs" if key == "cuts" else key: value for key, value in given.items()}
        return given


class Instruction(Section):
    """The request of users and arms without one in `data.instructions`, and the limits of all instructions."""

    default_request: str = "Recommend what this user will want next."
    """The default request. Prompts of text rerankers contain it only if it is changed."""
    max_chars: int = Field(300, ge=1)
    """Maximum length of a user profile text or a request; the rest is cut off."""
    templates: StorageUrl | None = None
    """A YAML file of prompt templates; `null`: `rayrec/instructions/templates/`."""
    encoder: Checkpoint | None = "auto"
    """The sentence encoder that reads requests in words that the catalogue does not use; `auto`: all-MiniLM-L6-v2,
    installed with rayrec; or one in the sentence-transformers format, in the places of `tuning.base`; `null`: rules
    alone, which find the catalogue's own names."""
    facet_sentences: str | None = None
    """A YAML file of sentences that the encoder compares requests with; `null`:
    `rayrec/instructions/facet_sentences.yaml`."""
    request_weight: float = Field(8.0, ge=0)
    """Nats by which a facet of a request moves the score of items that have it, in every arm; 0: only an LLM uses
    requests."""
    profile_weight: float = Field(0.5, ge=0)
    """The same for a facet of a user profile text."""


class TableRegistration(Section):
    """A table of a data lake in which published days are registered."""

    format: Annotated[str, method_name("output.tables[].format")]
    """The format of the table."""
    settings: Annotated[SerializeAsAny[MethodSettings], method_settings("output.tables[].format", "format")] = Field(
        {}, validate_default=True
    )
    """Settings of the format."""


class Output(Section):
    """Where results are written."""

    root: StorageUrl = "out"
    """Folder or URL (`s3://…`, `gs://…`, `az://…`) of slates, reports, models and intermediate files."""
    examples: int = Field(3, ge=0)
    """Users shown as examples at the end of the job and in the report."""
    tables: tuple[TableRegistration, ...] = ()
    """Tables in which each published day is registered, after its manifest is written. Their files are the published
    ones."""

    @field_validator("tables")
    @classmethod
    def _once_each(cls, tables: tuple[TableRegistration, ...]) -> tuple[TableRegistration, ...]:
        if len({table.format for table in tables}) < len(tables):
            raise ValueError("each format at most once")
        return tables
