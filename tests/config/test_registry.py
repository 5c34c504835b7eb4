"""A new method is one file with class, settings and registration; the config then accepts its keys."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from pydantic import Field, ValidationError

from rayrec.config import Config, Denoise, Retrieval
from rayrec.config.json_schema import json_schema
from rayrec.config.reference import reference
from rayrec.config.registry import registries
from rayrec.config.section import MethodSettings
from rayrec.denoising import DENOISERS, Denoiser, DenoisingDecision, Histories
from rayrec.errors import ConfigError

DATA = {"interactions": {"path": "x"}, "items": {"from_interactions": True}}


class OldestSettings(MethodSettings):
    oldest: int = Field(1, ge=0)
    """How many of the oldest interactions are removed."""


class OldestDenoiser(Denoiser):
    """Removes the oldest interactions."""

    name = "oldest"
    settings_class = OldestSettings

    @classmethod
    def load(cls, arrays: Any, settings: OldestSettings) -> OldestDenoiser:
        return cls()

    def decide(self, histories: Histories) -> DenoisingDecision:
        return DenoisingDecision.all_retained(len(histories.item.values))


@pytest.fixture
def oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DENOISERS, "_methods", dict(DENOISERS))
    DENOISERS.register(OldestDenoiser)


def config(denoise: dict[str, Any]) -> dict[str, Any]:
    return {"name": "shop", "data": DATA, "denoise": denoise, "arms": {"variants": {"only": {}}}}


@pytest.mark.usefixtures("oldest")
def test_registered_method_is_in_config_schema_and_reference() -> None:
    content = config({"method": "oldest", "settings": {"oldest": 3}})
    assert Config.model_validate(content).denoise.settings == OldestSettings(oldest=3)
    schema = jsonschema.Draft202012Validator(json_schema())
    assert schema.is_valid(content)
    assert not schema.is_valid(config({"method": "oldest", "settings": {"oldest": -1}}))
    assert "| `oldest` | Removes the oldest interactions. |" in reference()
    assert "| `oldest` | whole number, ≥ 0 | `1` | How many of the oldest interactions are removed. |" in reference()


@pytest.mark.usefixtures("oldest")
@pytest.mark.parametrize(
    ("denoise", "says"),
    [
        ({"method": "oldes"}, r"(?s)denoise\.method.*no denoising method 'oldes'; use one of .*oldest"),
        ({"method": "oldest", "settings": {"oldst": 1}}, r"denoise\.settings\.oldst\n.*did you mean 'oldest'"),
        ({"method": "oldest", "settings": {"oldest": "1"}}, r"denoise\.settings\.oldest\n.*valid integer"),
        ({"method": "oldest", "settings": {"oldest": True}}, r"denoise\.settings\.oldest\n.*valid integer"),
    ],
)
def test_settings_are_validated_when_the_config_is_read(denoise: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Config.model_validate(config(denoise))


def test_source_name_is_the_default_method() -> None:
    sources = Retrieval(sources={"ease": {}, "recent": {"method": "ease", "top_k": 5}}).sources
    assert [(source.method, source.top_k) for source in sources.values()] == [("ease", None), ("ease", 5)]
    assert type(sources["ease"]) is type(sources["recent"])


def test_fingerprint_includes_default_settings() -> None:
    given = Config.model_validate(config({"settings": {"min_users": 50}}))
    assert given.fingerprint == Config.model_validate(config({})).fingerprint
    assert given.fingerprint != Config.model_validate(config({"settings": {"min_users": 60}})).fingerprint
    assert Denoise(method="none").settings.model_dump() == {}


def test_every_registry_refuses_unknown_names_with_the_known_ones() -> None:
    for known in registries().values():
        with pytest.raises(ConfigError) as refused:
            known.lookup("nothing of the kind")
        assert refused.value.where == known.key
        assert all(name in refused.value.hint for name in known)
