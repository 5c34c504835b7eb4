"""The sections of the config that say what is done with the data, from histories to the blend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializeAsAny,
    StringConstraints,
    field_validator,
    model_validator,
)

from rayrec.config.registry import method_name, method_settings, registry
from rayrec.config.section import MethodSettings, Section

_RESERVED = ("llm", "pinned")  # what a slate's `source` column says of items that no source proposed


class Denoise(Section):
    """Which events of a history are not to be believed: they are taken out before anything reads it."""

    method: Annotated[str, method_name("denoise.method")] = "influence"
    """The name of a method; `none` keeps everything."""
    settings: Annotated[SerializeAsAny[MethodSettings], method_settings("denoise.method", "method")] = Field(
        {}, validate_default=True
    )
    """Settings of the method."""


class RetrieverSettings(MethodSettings):
    """What every source has, beside the settings of its retriever."""

    method: str = ""
    """The retriever; default: the source's name."""
    top_k: int | None = Field(None, ge=0)
    """How many of its best items are candidates; `null`: `candidates_per_source`; 0: it only scores what others
    propose."""

    scoring_only: ClassVar[frozenset[str]] = frozenset({"method", "top_k"})  # keys that a fit does not depend on

    @property
    def fit_settings(self) -> dict[str, Any]:
        """The settings that a fit depends on, as plain data: sources that agree in them share one fit."""
        return self.model_dump(mode="json", exclude=set(self.scoring_only))


def _retriever_settings(given: Any) -> Any:
    """As the settings class of the retriever that `method` names."""
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
    """Which items a user might want: what the sources propose, each of them scored by every source."""

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
    """The sources by name, each with the settings of its retriever. What is given stands for the whole list: to add a
    source, copy it."""
    candidates_per_source: int = Field(100, ge=1)
    """So many of each source's best are candidates. More candidates are more work for every stage after."""
    request_candidates: int = Field(100, ge=0)
    """So many items that match the words of a request are candidates too; 0: none."""
    exclude_seen: bool = True
    """Whether items of the user's history are left out; events that denoising takes out count as seen, too."""

    @field_validator("sources", mode="before")
    @classmethod
    def _named_by_their_method(cls, sources: Any) -> Any:
        """A source without a `method` has the retriever of its own name."""
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
    """Events that are learned from; beyond it whole users are left out, chosen by their stable hash."""


class Blend(Section):
    """How the final score is learned: on the days before the date, cut by cut, with everything fitted before it."""

    cutoffs: int = Field(2, ge=0)
    """Moments in the past to learn from, a horizon apart. Each costs a fit and a tuning; 0: nothing is learned, the
    default weights stand."""
    horizon_days: float = Field(7.0, gt=0)
    """What users took within this time after a cut is what is learned. Longer where they act rarely."""
    min_events: int = Field(3, ge=0)
    """Users with fewer positive events before the cut do not teach."""
    max_users: int = Field(40_000, ge=1)
    """Users looked at, chosen by their stable hash; those who took something teach every arm."""
    l2: float = Field(1e-3, gt=0)
    """How hard the weights are pulled to zero."""


class Instruction(Section):
    """What is asked for, in words, where `data.instructions` says nothing for a user and arm."""

    default_request: str = "Recommend what this user will want next."
    """The request. Checkpoints that read titles are told it as well, unless it is this one: their templates say so."""
    max_chars: int = Field(300, ge=1)
    """Characters of a preference or an intention that are kept."""
    templates: str | None = None
    """A YAML file to use instead of `rayrec/instructions/templates/`."""


class Output(Section):
    """Where what is made goes."""

    root: str = "out"
    """Folder or fsspec URL (`s3://…`) of slates, reports, models and what nights leave to go on from."""
    examples: int = Field(3, ge=0)
    """Users shown at the end of the job, and in the report."""
