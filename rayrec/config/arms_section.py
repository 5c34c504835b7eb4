"""`arms`: the experiment arms, and how users are assigned to them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rayrec.config.rerank_section import Rerank
from rayrec.config.scoring_sections import Denoise, Retrieval
from rayrec.config.section import Section
from rayrec.config.slate_section import Slate


class Arm(Section):
    """One variant of the scoring settings: what differs from the top-level sections (rayrec.config.inheritance).

    A key that is not given is as in the top-level section, at every depth: `slate: {policy: epsilon_greedy}` keeps
    size and rules. A list stands for the whole list, `retrieval.sources` for all sources. `settings` are merged,
    unless the arm names another method (or policy) than the top level: those of the other are not inherited, nor is
    the adapter of another checkpoint, nor any checkpoint where `rerank.method` needs none.
    """

    denoise: Denoise | None = None
    """What differs in denoising."""
    retrieval: Retrieval | None = None
    """What differs in retrieval. Arms that do not differ here share their candidates."""
    rerank: Rerank | None = None
    """What differs in scoring by the LLM."""
    slate: Slate | None = None
    """What differs in making slates."""
    share: float = Field(1.0, gt=0)
    """Where users are split: this arm's part, over the sum of all arms' shares."""


class ExperimentLayer(Section):
    """An experiment inside a layer: of the users whom another salt puts into [low, high) of [0, 1).

    Give the salt of an earlier experiment and the range of one of its arms to nest this one in that arm; users keep
    their place for as long as the salts stay.
    """

    salt: str
    """The layer's salt; another than `arms.salt`."""
    low: float = Field(0.0, ge=0, lt=1)
    """Where the layer begins."""
    high: float = Field(1.0, gt=0, le=1)
    """Where it ends; above `low`."""
    default_arm: str
    """The arm of the users outside the layer; they are not compared."""

    @model_validator(mode="after")
    def _some_room(self) -> ExperimentLayer:
        if self.low >= self.high:
            raise ValueError("arms.layer needs low below high")
        return self


class Arms(Section):
    """The variants that are compared; the first is the baseline."""

    assignment: Literal["all", "split"] = "all"
    """`all`: every user has a slate of every arm; `split`: of one, by the arms' shares."""
    salt: str = "rayrec"
    """What users are dealt out by: another salt is another, independent split."""
    layer: ExperimentLayer | None = None
    """An experiment on a part of the users; `null`: on all."""
    sample_ratio_min_p: float = Field(1e-3, ge=0, lt=1)
    """Smallest p-value of the sample-ratio check; below it nothing is published. 0: no check."""
    variants: dict[str, Arm]
    """The arms, at least one; `{}` is the top-level sections as they are."""

    @model_validator(mode="after")
    def _known(self) -> Arms:
        if not self.variants:
            raise ValueError("at least one arm is needed")
        if self.layer and self.layer.default_arm not in self.variants:
            raise ValueError(f"arms.layer.default_arm: there is no arm {self.layer.default_arm!r}")
        if self.layer and self.layer.salt == self.salt:
            raise ValueError("arms.layer.salt must differ from arms.salt, or the split would follow the layer")
        return self
