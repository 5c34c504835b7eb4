"""`Config` and `load`: read YAML, apply overrides, validate."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import yaml
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from rayrec.config import yaml_loader
from rayrec.config.alerts_section import Alerts
from rayrec.config.arms_section import Arms
from rayrec.config.data_section import Data, Feedback
from rayrec.config.embeddings_section import Embeddings
from rayrec.config.guardrails_section import Guardrails
from rayrec.config.inheritance import inherit_from_top_level
from rayrec.config.push_section import Push
from rayrec.config.rerank_section import Rerank
from rayrec.config.resources_section import Resources
from rayrec.config.scoring_sections import Blend, Denoise, Fit, Instruction, Output, Retrieval
from rayrec.config.section import Section, explain
from rayrec.config.slate_section import Slate
from rayrec.config.text_tuning_section import TextTuning
from rayrec.config.tracking_section import Tracking
from rayrec.config.tuning_section import Tuning
from rayrec.errors import ConfigError
from rayrec.numerics.hashing import digest, with_key_order

_IN_ORDER = ("data.events", "retrieval.sources", "arms.variants", "arms.variants.*.retrieval.sources")
"""Keys whose order is significant: event codes, ties between sources, the baseline arm and the split."""

_NOT_OF_SLATES = ("resources", "output", "feedback", "embeddings", "guardrails", "alerts", "push", "tracking")
"""Sections that change no slate; `feedback` does with `blend.feedback`."""

_KEY_PART = re.compile(r'"([^"]+)"|([^."]+)')
_OVERRIDE = re.compile(r"""((?:"[^"]+"|[^.="]+)(?:\.(?:"[^"]+"|[^.="]+))*)=(.*)""", re.DOTALL)


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
    text_tuning: TextTuning = TextTuning()
    """The adapter of a text reranker and its tuning, for `rerank.adapter: tuned`."""
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
    guardrails: Guardrails = Guardrails()
    """Bounds that a run must keep to be published without a warning, or at all."""
    alerts: Alerts = Alerts()
    """Where failures are reported."""
    push: Push = Push()
    """Where `jobs.push` writes slates."""
    tracking: Tracking = Tracking()
    """Where evaluations are logged."""
    resources: Resources = Resources()
    """Resources of the cluster."""
    output: Output = Output()
    """Where results are written."""

    @field_validator("arms", mode="before")
    @classmethod
    def _arms_say_what_differs(cls, arms: Any, info: ValidationInfo) -> Any:
        return inherit_from_top_level(arms, info.data)

    @model_validator(mode="after")
    def _names_the_log(self) -> Config:
        if self.blend.feedback is not None and self.feedback is None:
            raise ValueError("blend.feedback needs the section feedback, which names the log")
        return self

    @property
    def fingerprint(self) -> str:
        """Digest of all settings that can change a slate; input and output locations and resources are excluded."""
        return digest(with_key_order(self.fingerprinted_settings(), *_IN_ORDER))

    def fingerprinted_settings(self) -> dict[str, Any]:
        """The settings that can change a slate, as plain data. Embeddings are published separately."""
        learns = {"feedback"} if self.blend.feedback is not None else set()
        content = self.model_dump(mode="json", exclude=set(_NOT_OF_SLATES) - learns)
        for section in ("data", *learns):
            del content[section]["root"]
        return content


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read YAML, apply overrides (`a.b=c`) and validate. Raises ConfigError naming the key and the nearest known
    one."""
    _require_time_zones()
    try:
        text = Path(path).read_text(encoding="utf8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the config: {error}", where=str(path), hint="give --config the path of a YAML file"
        ) from None
    try:
        content = yaml_loader.load(text, str(path))
    except yaml.YAMLError as error:
        hint = "correct that line; text with : # { [ or quotes in it goes into quotes"
        raise ConfigError(f"not valid YAML: {error}", where=str(path), hint=hint) from None
    if not isinstance(content, dict):
        raise ConfigError("a config is a mapping of sections", where=str(path), hint="start from a file in conf/")
    for override in overrides:
        _apply(content, override)
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        given = "".join(f", --set {override.partition('=')[0]}" for override in overrides)  # a value may hold a secret
        hint = "docs/config.md has every key; --print-config prints the settings as they are read"
        raise ConfigError(explain(error), where=f"{path}{given}", hint=hint) from None


def _require_time_zones() -> None:
    try:
        ZoneInfo("UTC")
    except (KeyError, OSError):
        raise ConfigError(
            "there is no time zone data",
            where=", ".join(zoneinfo.TZPATH) or "PYTHONTZPATH",
            hint="install it: `pip install tzdata`, or the package tzdata of the operating system",
        ) from None


def _apply(content: dict[str, Any], override: str) -> None:
    """Set one `section.key=value` of `content`. A part with dots stands in quotes: `data.events."a.b"=1`."""
    match = _OVERRIDE.fullmatch(override)
    if match is None:
        raise ConfigError(f"cannot read --set {override!r}", hint="write it as --set section.key=value")
    key, value = match[1], match[2]
    *parents, last = (quoted or plain for quoted, plain in _KEY_PART.findall(key))
    node = content
    for parent in parents:
        if node.get(parent) is None:  # an empty section
            node[parent] = {}
        child = node[parent]
        if not isinstance(child, dict):
            hint = f"set it as a whole: --set {parent}=..." if isinstance(child, list) else "remove the keys below it"
            kind = "a list" if isinstance(child, list) else "a value"
            raise ConfigError(f"{parent!r} is {kind}, not a section", where=f"--set {override}", hint=hint)
        node = child
    node[last] = _value(value, f"--set {key}")


def _value(text: str, where: str) -> Any:
    """The value of an override as YAML. Plain text is taken as it stands: ` #` begins no comment, `: ` no mapping."""
    try:
        value = yaml_loader.load(text, where)
    except yaml.YAMLError:
        return text
    plain = text.strip()[:1] not in {"{", "[", '"', "'"}
    return text.strip() if plain and (" #" in text or isinstance(value, dict)) else value
