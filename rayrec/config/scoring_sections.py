"""The sections of the config that say what is done with the data, from histories to the blend."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from rayrec.config.section import Section


class Denoise(Section):
    """Which events of a history are not to be believed: they are taken out before anything reads it."""

    method: str = "influence"
    """The name of a method; `none` keeps everything."""
    settings: dict[str, Any] = Field({})
    """Of the method."""


class Retrieval(Section):
    """Which items a user might want: what the sources propose, each of them scored by every source."""

    sources: dict[str, dict[str, Any]] = Field(
        {
            "ease": {},
            "ease_recent": {"kind": "ease", "history_half_life_days": 14.0},
            "item_knn": {"top": 0},
            "user_knn_2d": {"kind": "user_knn", "half_life_days": 2.0},
            "user_knn_7d": {"kind": "user_knn", "half_life_days": 7.0},
            "user_knn_28d": {"kind": "user_knn", "half_life_days": 28.0, "top": 0},
            "popularity": {"top": 0},
            "recent_popularity_1d": {"kind": "recent_popularity", "half_life_days": 1.0},
            "recent_popularity_8d": {"kind": "recent_popularity", "half_life_days": 8.0},
        }
    )
    """By name: `kind` (a retriever; default: the name), `top` (default: `candidates_per_source`; 0: it only scores what others
    propose) and the retriever's own settings. What is given stands for the whole list: to add one, copy it."""
    candidates_per_source: int = Field(100, ge=1)
    """So many of each source's best are candidates. More candidates are more work for every stage after."""
    request_candidates: int = Field(100, ge=0)
    """So many items that match the words of a request are candidates too; 0: none."""
    exclude_seen: bool = True
    """Whether items of the user's history are left out; events that denoising takes out count as seen, too."""


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

    text: str = "Recommend what this user will want next."
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
