"""`arms`: the experiment arms and the assignment of users to them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rayrec.config.rerank_section import Rerank
from rayrec.config.scoring_sections import Denoise, Retrieval
from rayrec.config.section import Section
from rayrec.config.slate_section import Slate


class Arm(Section):
    """A variant of the scoring settings: only the keys that differ from the top-level sections.

    Omitted keys are inherited from the top-level section, at every depth: `slate: {policy: epsilon_greedy}` keeps size
    and rules. A list, and `retrieval.sources`, is replaced as a whole. `settings` are merged, unless the arm names
    another method (or policy): then they are not inherited. An `adapter` is not inherited for another checkpoint, and
    no checkpoint is inherited where `rerank.method` needs none.
    """

    denoise: Denoise | None = None
    """Overrides of `denoise`."""
    retrieval: Retrieval | None = None
    """Overrides of `retrieval`. Arms without overrides share their candidates."""
    rerank: Rerank | None = None
    """Overrides of `rerank`."""
    slate: Slate | None = None
    """Overrides of `slate`."""
    share: float = Field(1.0, gt=0)
    """With `assignment: split`: this arm's share of the users, relative to the sum of all shares."""


class EarlierArm(Section):
    """An arm of an earlier split experiment: its users, found again from that experiment's salt and shares."""

    salt: str
    """`arms.salt` of the earlier experiment."""
    shares: dict[str, Annotated[float, Field(gt=0)]]
    """Its arms and their shares: `{control: 1, llm: 1}`."""
    arm: str
    """The arm among them whose users take part in the new experiment."""

    @model_validator(mode="after")
    def _known(self) -> EarlierArm:
        if self.arm not in self.shares:
            raise ValueError(f"arms.layer.earlier.arm: there is no arm {self.arm!r} in shares")
        return self


class ExperimentLayer(Section):
    """An experiment restricted to a layer: users in a range of a salted hash, or in an arm of an earlier experiment.

    With both, only users in both take part. The assignment is stable while the salts do not change.
    """

    salt: str | None = None
    """The layer's salt: users whose hash with it falls into [low, high) of [0, 1); must differ from `arms.salt`."""
    low: float = Field(0.0, ge=0, lt=1)
    """Lower end of the range, included."""
    high: float = Field(1.0, gt=0, le=1)
    """Upper end of the range, excluded; above `low`."""
    earlier: EarlierArm | None = None
    """The arm of an earlier experiment in which this one runs."""
    default_arm: str
    """The arm of the users outside the layer, who are not part of the comparison."""

    @model_validator(mode="after")
    def _some_room(self) -> ExperimentLayer:
        if self.low >= self.high:
            raise ValueError("arms.layer needs low below high")
        if self.salt is None and self.earlier is None:
            raise ValueError("arms.layer needs a salt, or an earlier experiment's arm")
        return self

    def __str__(self) -> str:
        parts = [f"{self.low:g} to {self.high:g} of salt {self.salt!r}"] if self.salt is not None else []
        if self.earlier is not None:
            parts.append(f"users of {self.earlier.arm} in the experiment with salt {self.earlier.salt!r}")
        return " and ".join(parts)


class Arms(Section):
    """The experiment arms; the first is the baseline."""

    assignment: Literal["all", "split"] = "all"
    """`all`: every user gets a slate of every arm; `split`: of one arm, by the arms' shares."""
    salt: str = "rayrec"
    """Salt of the hash that assigns users to arms; another salt gives an independent split."""
    layer: ExperimentLayer | None = None
    """Restricts the experiment to a part of the users; `null`: all users take part."""
    sample_ratio_min_p: float = Field(1e-3, ge=0, lt=1)
    """Smallest p-value of the sample-ratio check; below it nothing is published. 0 disables the check."""
    variants: dict[str, Arm]
    """The arms by name, at least one; `{}` is the top-level sections unchanged."""

    @model_validator(mode="after")
    def _known(self) -> Arms:
        if not self.variants:
            raise ValueError("at least one arm is needed")
        if self.layer and self.layer.default_arm not in self.variants:
            raise ValueError(f"arms.layer.default_arm: there is no arm {self.layer.default_arm!r}")
        if self.layer and self.salt in (self.layer.salt, self.layer.earlier and self.layer.earlier.salt):
            raise ValueError("the salts of arms.layer must differ from arms.salt, or the split would follow the layer")
        return self
