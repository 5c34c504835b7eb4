"""`Config` and `load`: read YAML, apply overrides, validate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, ValidationInfo, field_validator

from rayrec.config import yaml_loader
from rayrec.config.arms_section import Arms
from rayrec.config.data_section import Data, Feedback
from rayrec.config.embeddings_section import Embeddings
from rayrec.config.inheritance import inherit_from_top_level
from rayrec.config.rerank_section import Rerank
from rayrec.config.resources_section import Resources
from rayrec.config.scoring_sections import Blend, Denoise, Fit, Instruction, Output, Retrieval
from rayrec.config.section import Section, explain
from rayrec.config.slate_section import Slate
from rayrec.config.tuning_section import Tuning
from rayrec.errors import ConfigError
from rayrec.numerics.hashing import digest, with_key_order

_IN_ORDER = ("data.events", "retrieval.sources", "arms.variants", "arms.variants.*.retrieval.sources")
"""Keys whose order is significant: event codes, ties between sources, the baseline arm and the split."""


class Config(Section):
    """The settings of a job. `denoise`, `retrieval`, `rerank` and `slate` may differ between arms."""

    name: str
    """Name of the run, in reports and manifests."""
    data: Data
    """Input files and the meaning of their columns."""
    denoise: Denoise = Field(default_factory=Denoise)
    """Which interactions are removed from histories."""
    retrieval: Retrieval = Field(default_factory=Retrieval)
    """The candidate sources."""
    fit: Fit = Fit()
    """Bounds of the item models."""
    blend: Blend = Blend()
    """How the sources' scores are combined into one."""
    instruction: Instruction = Instruction()
    """The default request and the limits of instructions."""
    tuning: Tuning = Tuning()
    """The item-token LLM and its tuning."""
    rerank: Rerank = Field(default_factory=Rerank)
    """How the LLM scores candidates."""
    slate: Slate = Field(default_factory=Slate)
    """How slates are made from scores."""
    arms: Arms
    """The experiment arms."""
    feedback: Feedback | None = None
    """Logged feedback on published slates; `null`: none."""
    embeddings: Embeddings | None = None
    """User embeddings; required by `jobs.embed`."""
    resources: Resources = Resources()
    """Resources of the cluster."""
    output: Output = Output()
    """Where results are written."""

    @field_validator("arms", mode="before")
    @classmethod
    def _arms_say_what_differs(cls, arms: Any, info: ValidationInfo) -> Any:
        return inherit_from_top_level(arms, info.data)

    @property
    def fingerprint(self) -> str:
        """Digest of all settings that can change a slate; input and output locations and resources are excluded."""
        return digest(with_key_order(self.fingerprinted_settings(), *_IN_ORDER))

    def fingerprinted_settings(self) -> dict[str, Any]:
        """The settings that can change a slate, as plain data. Embeddings are published separately."""
        content = self.model_dump(mode="json", exclude={"resources", "output", "feedback", "embeddings"})
        del content["data"]["root"]
        return content


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read YAML, apply overrides (`a.b=c`) and validate. Raises ConfigError naming the key and the nearest known
    one."""
    try:
        text = Path(path).read_text(encoding="utf8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the config: {error}", where=str(path), hint="give --config the path of a YAML file"
        ) from None
    try:
        content = yaml_loader.load(text, str(path))
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}", where=str(path)) from None
    if not isinstance(content, dict):
        raise ConfigError("a config is a mapping of sections", where=str(path), hint="start from a file in conf/")
    for override in overrides:
        _apply(content, override)
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise ConfigError(explain(error), where=str(path)) from None


def _apply(content: dict[str, Any], override: str) -> None:
    key, sign, value = override.partition("=")
    if not sign or not key:
        raise ConfigError(f"cannot read --set {override!r}", hint="write it as --set section.key=value")
    *parents, last = key.split(".")
    node = content
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {key}: {parent!r} is a value, not a section")
        node = child
    try:
        node[last] = yaml_loader.load(value, f"--set {key}")
    except yaml.YAMLError:
        node[last] = value
