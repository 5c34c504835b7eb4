"""Experiment arms as a plan: what each arm does at each stage, and which arms share the work.

Two arms whose settings for a stage are equal, and that share everything before it, have the same *variant* of that
stage: it runs once for both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel

from rayrec.config import Arm, Config, ExperimentLayer, Rerank
from rayrec.errors import ConfigError
from rayrec.numerics.hashing import derive_seed, digest, hash_strings, splitmix64, with_key_order

S = TypeVar("S", bound=BaseModel)
Stage = Literal["denoise", "retrieve", "rerank", "slate"]
STAGES: tuple[Stage, ...] = ("denoise", "retrieve", "rerank", "slate")
_SECTIONS = {"denoise": "denoise", "retrieve": "retrieval", "rerank": "rerank", "slate": "slate"}


@dataclass(frozen=True)
class Variant:
    """One way to run a stage. `name` tells it apart from every other variant and is stable between runs."""

    name: str
    stage: Stage
    settings: BaseModel = field(repr=False)  # Denoise, Retrieval, Rerank or Slate, with everything filled in
    parent: str | None  # the variant of the stage before, whose table it reads

    def read(self, section: type[S]) -> S:
        """The settings as the section that they are of."""
        if not isinstance(self.settings, section):
            raise TypeError(f"{self.name} holds {type(self.settings).__name__}, not {section.__name__}")
        return self.settings


@dataclass(frozen=True)
class ArmPath:
    """The variants that make one arm's slates, in the order of the stages."""

    arm: str
    share: float
    variants: tuple[Variant, ...]

    def at(self, stage: Stage) -> Variant:
        return self.variants[STAGES.index(stage)]


@dataclass(frozen=True)
class ArmPlan:
    """All arms of a config, in its order."""

    paths: tuple[ArmPath, ...]
    assignment: Literal["all", "split"]
    salt: str
    within: ExperimentLayer | None = None

    def __iter__(self) -> Iterator[ArmPath]:
        return iter(self.paths)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(path.arm for path in self.paths)

    def variants(self, stage: Stage) -> tuple[Variant, ...]:
        """Each variant of the stage once, in the order in which the arms first need it."""
        return tuple({path.at(stage).name: path.at(stage) for path in self.paths}.values())

    def arms_of(self, variant: Variant) -> tuple[str, ...]:
        return tuple(path.arm for path in self.paths if path.at(variant.stage).name == variant.name)

    def members(self, user_ids: pa.Array | pa.ChunkedArray) -> dict[str, npt.NDArray[np.bool_]]:
        """For each arm, which users [n] get a slate from it: all, or those that the salted hash gives to it.

        Who does not take part in the experiment is in the arm `within.others` alone.
        """
        part = self.participants(user_ids)
        arm = self.assigned(user_ids) if self.assignment == "split" else None
        chosen = {name: part if arm is None else part & (arm == number) for number, name in enumerate(self.names)}
        if self.within is not None:
            chosen[self.within.others] = chosen[self.within.others] | ~part
        return chosen

    def participants(self, user_ids: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
        """Which users [n] take part in the experiment."""
        return np.ones(len(user_ids), np.bool_) if self.within is None else in_layer(self.within, user_ids)

    def users_of(self, variant: Variant, user_ids: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
        """Which users [n] some arm of this variant serves: the others need no work here."""
        members = self.members(user_ids)
        served: npt.NDArray[np.bool_] = np.any([members[arm] for arm in self.arms_of(variant)], axis=0)
        return served

    def assigned(self, user_ids: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int16]:
        """The one arm of each user, [n], by index: a hash of salt and user, so the same every day, on every machine."""
        bounds = np.cumsum([path.share for path in self.paths])
        arm = np.searchsorted(bounds / bounds[-1], hash_to_unit(self.salt, user_ids), side="right")
        return np.minimum(arm, len(bounds) - 1).astype(np.int16)

    def describe(self) -> str:
        """The plan as text: every variant once, with the arms that use it."""
        lines = []
        for stage in STAGES:
            for variant in self.variants(stage):
                arms = ", ".join(self.arms_of(variant))
                lines.append(f"{stage:<9} {variant.name:<28} for {arms}")
        shares = ", ".join(f"{path.arm} {share:.0%}" for path, share in zip(self.paths, self.shares, strict=True))
        lines.append("users     " + ("every user in every arm" if self.assignment == "all" else f"split: {shares}"))
        if self.within is not None:
            layer = f"{self.within.low:g} to {self.within.high:g} of salt {self.within.salt!r}"
            lines.append(f"within    {layer}; everybody else is in {self.within.others}, and compared with nobody")
        return "\n".join(lines)

    @cached_property
    def shares(self) -> tuple[float, ...]:
        """Of the users who take part, by arm, in order."""
        total = sum(path.share for path in self.paths)
        return tuple(path.share / total for path in self.paths)


def hash_to_unit(salt: str, user_ids: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """Where a salt puts each user, [n] in [0, 1): the same every day; independent of where another salt does."""
    bits = splitmix64(hash_strings(user_ids) ^ np.uint64(derive_seed("arms", salt)))
    return np.asarray((bits >> np.uint64(11)) * 2.0**-53, np.float64)


def in_layer(within: ExperimentLayer, user_ids: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Which users [n] the layer holds."""
    point = hash_to_unit(within.salt, user_ids)
    return (point >= within.low) & (point < within.high)


def plan_arms(config: Config) -> ArmPlan:
    """Raises ConfigError for names that cannot be part of a path, and for keys that an arm's method would not read."""
    paths = []
    for name, arm in config.arms.variants.items():
        if not name.replace("_", "").replace("-", "").isalnum() or not name.isascii() or len(name) > 64:
            raise ConfigError(
                f"{name!r} cannot be an arm's name",
                where="arms.variants",
                hint="use letters, digits, - and _, at most 64",
            )
        if arm.rerank is not None:
            _require_read(name, arm.rerank, config.rerank)
        paths.append(ArmPath(name, arm.share, tuple(_variants(config, arm))))
    return ArmPlan(tuple(paths), config.arms.assignment, config.arms.salt, config.arms.within)


def _require_read(arm: str, rerank: Rerank, top: Rerank) -> None:
    """Of what the method does not read, an arm may only repeat the top level, which it inherits."""
    unread = [key for key in rerank.ignored_keys if getattr(rerank, key) != getattr(top, key)]
    if unread:
        tuned = rerank.method == "item_token" and {"engine", "dtype"} & set(unread)
        raise ConfigError(
            f"rerank.{' and '.join(unread)} of the arm {arm!r} would not be read by rerank.method {rerank.method}",
            where=f"arms.variants.{arm}.rerank",
            hint="leave it out of the arm"
            + ("; the top-level rerank.engine and rerank.dtype run the LLM tuned here, for all arms" if tuned else ""),
        )


def _variants(config: Config, arm: Arm) -> Iterator[Variant]:
    parent, key = None, ""
    for stage in STAGES:
        section = _SECTIONS[stage]
        settings: BaseModel = getattr(arm, section) or getattr(config, section)
        # The order of sources decides ties between them.
        key = digest([key, stage, with_key_order(settings.model_dump(mode="json"), "sources")])
        variant = Variant(f"{_label(stage, settings)}-{key[:8]}", stage, settings, parent)
        parent = variant.name
        yield variant


def _label(stage: Stage, settings: BaseModel) -> str:
    named = getattr(settings, "method", None) or getattr(settings, "policy", None)
    return str(named or stage)
