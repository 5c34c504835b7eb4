"""Registries: the methods that a config key may name, each with its settings.

A package creates a registry for a config key. A method's file registers a class (or function) with a `settings_class`.
Reading a config validates the key and the `settings` beside it against the registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, ValidationError, ValidationInfo

from rayrec.config.section import MethodSettings, NoSettings, explain
from rayrec.errors import ConfigError

M = TypeVar("M")

_PACKAGES = {
    "denoise.method": "rayrec.denoising",
    "retrieval.sources.NAME.method": "rayrec.retrieval",
    "rerank.method": "rayrec.reranking.text",
    "blend.method": "rayrec.blending",
    "slate.policy": "rayrec.slates",
    "slate.diversity.method": "rayrec.slates",
    "tuning.data_selection": "rayrec.reranking.training.data_selection",
    "embeddings.views.NAME.kind": "rayrec.embeddings",
    "embeddings.instructions.NAME.answer.kind": "rayrec.embeddings",
    "output.tables[].format": "rayrec.publishing.tables",
}
"""The package that registers the methods of each key."""
_REGISTRIES: dict[str, Registry[Any]] = {}


class Registry(Mapping[str, M]):
    """Methods by name, for the config key `key`; `what` is the noun for a method in errors.

    `built_in`: names that are valid without a registered method, such as `none`.
    """

    def __init__(self, key: str, what: str, built_in: tuple[str, ...] = ()) -> None:
        self.key, self.what, self.built_in = key, what, built_in
        self._methods: dict[str, M] = {}
        _REGISTRIES[key] = self

    def register(self, method: M) -> M:
        """Decorator: register a class under its `name`."""
        return self.register_as(method.name)(method)  # type: ignore[attr-defined]

    def register_as(self, name: str) -> Callable[[M], M]:
        """Decorator: register a method under the given name."""

        def add(method: M) -> M:
            self._methods[name] = method
            return method

        return add

    def lookup(self, name: str) -> M:
        """The method of that name. Raises ConfigError naming the known ones."""
        if name not in self._methods:
            raise ConfigError(f"there is no {self.what} {name!r}", where=self.key, hint=self._hint)
        return self._methods[name]

    def settings_class(self, name: str) -> type[MethodSettings]:
        """The settings class of a method. Raises ConfigError for an unknown name."""
        if name in self.built_in:
            return NoSettings
        return getattr(self.lookup(name), "settings_class", NoSettings)

    def settings(self, name: str, given: Mapping[str, Any] | None = None) -> Any:
        """The validated settings of a method. Raises ConfigError."""
        try:
            return self.settings_class(name).model_validate(given or {})
        except ValidationError as error:
            raise ConfigError(
                explain(error),
                where=f"settings of {self.key} {name}",
                hint="docs/config.md lists the settings of every method",
            ) from None

    def known(self, name: str) -> str:
        """Validate a method name. Raises ValueError if it is neither registered nor built in."""
        if name not in self._methods and name not in self.built_in:
            raise ValueError(f"there is no {self.what} {name!r}; {self._hint}")
        return name

    @property
    def _hint(self) -> str:
        return f"use one of {', '.join([*self.built_in, *sorted(self._methods)])}"

    def __getitem__(self, name: str) -> M:
        return self._methods[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._methods)

    def __len__(self) -> int:
        return len(self._methods)


def registry(key: str) -> Registry[Any]:
    """The registry of a config key, with all its methods registered.

    The packages import the config, so they are imported here, when a config is read.
    """
    import_module(_PACKAGES[key])
    return _REGISTRIES[key]


def registries() -> dict[str, Registry[Any]]:
    """All registries by config key."""
    return {key: registry(key) for key in _PACKAGES}


def method_name(key: str) -> AfterValidator:
    """Validator of a key that names a method of the registry `key`."""
    return AfterValidator(lambda name: registry(key).known(name))


def method_settings(key: str, named_by: str) -> BeforeValidator:
    """Validator of a `settings` key, by the settings class of the method that the sibling key `named_by` names."""

    def read(given: Any, info: ValidationInfo) -> Any:
        if named_by not in info.data:  # an invalid name is an error of its own
            return MethodSettings()
        return registry(key).settings_class(info.data[named_by]).model_validate(given)

    return BeforeValidator(read)
