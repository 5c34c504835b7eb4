"""Arm plan: the settings of each arm at each stage, which arms share a stage, and the users of each arm.

Two arms with equal settings for a stage, and for all stages before it, share a *variant* of that stage, which runs
once. Salted hashes assign users to arms and to the experiment's layer: the same on every date and machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel

from rayrec.config import Arm, Config, ExperimentLayer, Rerank
from rayrec.errors import ConfigError
from rayrec.numerics.hashing import derive_seed, digest, hash_strings, splitmix64, with_key_order
from rayrec.numerics.types import Bools, Float64s

S = TypeVar("S", bound=BaseModel)
Users: TypeAlias = pa.Array | pa.ChunkedArray  # ids, string [n]
Stage = Literal["denoise", "retrieve", "rerank", "slate"]
STAGES: tuple[Stage, ...] = ("denoise", "retrieve", "rerank", "slate")
_SECTIONS = {"denoise": "denoise", "retrieve": "retrieval", "rerank": "rerank", "slate": "slate"}


@dataclass(frozen=True)
class Variant:
    """A stage with its settings. `name` is unique among the variants and stable between runs."""

    name: str
    stage: Stage
    settings: BaseModel = field(repr=False)  # complete Denoise, Retrieval, Rerank or Slate settings
    parent: str | None  # the variant of the previous stage, its input

    def read(self, section: type[S]) -> S:
        """The settings as this section. Raises TypeError for another section."""
        if not isinstance(self.settings, section):
            raise TypeError(f"{self.name} holds {type(self.settings).__name__}, not {section.__name__}")
        return self.settings


@dataclass(frozen=True)
class ArmPath:
    """The variants of one arm, in the order of the stages."""

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
    layer: ExperimentLayer | None = None

    def __iter__(self) -> Iterator[ArmPath]:
        return iter(self.paths)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(path.arm for path in self.paths)

    def variants(self, stage: Stage) -> tuple[Variant, ...]:
        """Distinct variants of a stage, in the order of the arms."""
        return tuple({path.at(stage).name: path.at(stage) for path in self.paths}.values())

    def arms_of(self, variant: Variant) -> tuple[str, ...]:
        return tuple(path.arm for path in self.paths if path.at(variant.stage).name == variant.name)

    def members(self, user_ids: Users) -> dict[str, Bools]:
        """For each arm, a mask of its users [n]: all users, or those that the salted hash assigns to it.

        Users outside the experiment's layer are in the arm `layer.default_arm`.
        """
        inside = self.participants(user_ids)
        if self.assignment == "split":
            assigned = assign_arms(self.salt, {path.arm: path.share for path in self.paths}, user_ids)
            members = {name: inside & (assigned == number) for number, name in enumerate(self.names)}
        else:
            members = dict.fromkeys(self.names, inside)
        if self.layer is not None:
            members[self.layer.default_arm] = members[self.layer.default_arm] | ~inside
        return members

    def participants(self, user_ids: Users) -> Bools:
        """Mask of the users [n] in the experiment's layer."""
        return in_layer(self.layer, user_ids)

    def users_of(self, variant: Variant, user_ids: Users) -> Bools:
        """Mask of the users [n] in any arm of this variant."""
        members = self.members(user_ids)
        served: Bools = np.any([members[arm] for arm in self.arms_of(variant)], axis=0)
        return served

    def describe(self) -> str:
        """The plan as text: every variant with its arms."""
        lines = []
        for stage in STAGES:
            for variant in self.variants(stage):
                arms = ", ".join(self.arms_of(variant))
                lines.append(f"{stage:<9} {variant.name:<28} for {arms}")
        shares = ", ".join(f"{path.arm} {share:.0%}" for path, share in zip(self.paths, self.shares, strict=True))
        lines.append("users     " + ("every user in every arm" if self.assignment == "all" else f"split: {shares}"))
        if self.layer is not None:
            lines.append(
                f"layer     {self.layer}; all other users are in {self.layer.default_arm} and are not compared"
            )
        return "\n".join(lines)

    @cached_property
    def shares(self) -> tuple[float, ...]:
        """Shares of the participants by arm, in order."""
        total = sum(path.share for path in self.paths)
        return tuple(path.share / total for path in self.paths)


def plan_arms(config: Config) -> ArmPlan:
    """Plan the arms of a config. Raises ConfigError for invalid arm names, and for keys that a method ignores."""
    paths = []
    for name, arm in config.arms.variants.items():
        if not name.replace("_", "").replace("-", "").isalnum() or not name.isascii() or len(name) > 64:
            raise ConfigError(
                f"{name!r} cannot be an arm's name",
                where="arms.variants",
                hint="use letters, digits, - and _, at most 64",
            )
        if arm.rerank is not None:
            _require_used(name, arm.rerank, config.rerank)
        paths.append(ArmPath(name, arm.share, tuple(_variants(config, arm))))
    return ArmPlan(tuple(paths), config.arms.assignment, config.arms.salt, config.arms.layer)


def in_layer(layer: ExperimentLayer | None, user_ids: Users) -> Bools:
    """Mask of the users [n] in the layer; without a layer, all users."""
    inside = np.ones(len(user_ids), np.bool_)
    if layer is None:
        return inside
    if layer.salt is not None:
        point = _hash_to_unit(layer.salt, user_ids)
        inside &= (point >= layer.low) & (point < layer.high)
    if layer.earlier is not None:
        arms = list(layer.earlier.shares)
        inside &= assign_arms(layer.earlier.salt, layer.earlier.shares, user_ids) == arms.index(layer.earlier.arm)
    return inside


def assign_arms(salt: str, shares: Mapping[str, float], user_ids: Users) -> npt.NDArray[np.int64]:
    """The arm of each user, [n], as an index into `shares` (of any sum), by weighted rendezvous hashing.

    Each arm has a hash u of its own for each user, and the arm with the largest -share / ln u wins (Schindelhauer &
    Schomaker 2005). So a new arm takes users only for itself, an arm that ends gives up only its own, and a larger
    share only adds users: no user moves between two arms whose shares stay.
    """
    key = np.stack([-share / np.log(_hash_to_unit(f"{salt}/{arm}", user_ids)) for arm, share in shares.items()])
    return np.asarray(key.argmax(axis=0), np.int64)


def _hash_to_unit(salt: str, user_ids: Users) -> Float64s:
    """The hash of each user, [n] in (0, 1); hashes of different salts are independent."""
    bits = splitmix64(hash_strings(user_ids) ^ np.uint64(derive_seed("arms", salt)))
    return np.asarray(((bits >> np.uint64(11)) + 0.5) * 2.0**-53, np.float64)


def _require_used(arm: str, rerank: Rerank, top: Rerank) -> None:
    """An arm may repeat inherited top-level keys that its method ignores, but not set them."""
    ignored = [key for key in rerank.ignored_keys if getattr(rerank, key) != getattr(top, key)]
    if ignored:
        tuned = rerank.method == "item_token" and {"engine", "dtype"} & set(ignored)
        raise ConfigError(
            f"rerank.method {rerank.method} ignores rerank.{' and '.join(ignored)} of the arm {arm!r}",
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
