"""Registries: the methods that a config key may name, each with its settings.

A package makes a registry for a key of the config; a method's own file adds the method to it, as a class (or function)
with a `settings_class`. When a config is read, the key and the `settings` beside it are validated against the registry.
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
    "slate.policy": "rayrec.slates",
    "slate.diversity.method": "rayrec.slates",
    "tuning.data_selection": "rayrec.reranking.training.data_selection",
    "embeddings.views.NAME.kind": "rayrec.embeddings",
    "embeddings.instructions.NAME.answer.kind": "rayrec.embeddings",
}
"""Which package registers the methods of a key."""
_REGISTRIES: dict[str, Registry[Any]] = {}


class Registry(Mapping[str, M]):
    """Methods by name, for the config key `key`; `what` is what an error calls one.

    `built_in`: names that the key takes beside the registered ones, for what needs no method, such as `none`.
    """

    def __init__(self, key: str, what: str, built_in: tuple[str, ...] = ()) -> None:
        self.key, self.what, self.built_in = key, what, built_in
        self._methods: dict[str, M] = {}
        _REGISTRIES[key] = self

    def register(self, method: M) -> M:
        """Decorator of a class with a `name`."""
        return self.register_as(method.name)(method)  # type: ignore[attr-defined]

    def register_as(self, name: str) -> Callable[[M], M]:
        """Decorator that adds a method by the given name."""

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
        """The class of a method's settings. Raises ConfigError for an unknown name."""
        if name in self.built_in:
            return NoSettings
        return getattr(self.lookup(name), "settings_class", NoSettings)

    def settings(self, name: str, given: Mapping[str, Any] | None = None) -> Any:
        """A method's settings, as an instance of its `settings_class`. Raises ConfigError."""
        try:
            return self.settings_class(name).model_validate(given or {})
        except ValidationError as error:
            raise ConfigError(explain(error), where=f"settings of {self.key} {name}") from None

    def known(self, name: str) -> str:
        """Validator of the key itself: ValueError for a name that is neither registered nor built in."""
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
    """The registry of a config key, all its methods registered.

    The packages import the config, so the config cannot import them before a config is read: they are imported here.
    """
    import_module(_PACKAGES[key])
    return _REGISTRIES[key]


def registries() -> dict[str, Registry[Any]]:
    """All registries, by the config key that they are for."""
    return {key: registry(key) for key in _PACKAGES}


def method_name(key: str) -> AfterValidator:
    """Validator of a key that names a method of the registry `key`."""
    return AfterValidator(lambda name: registry(key).known(name))


def method_settings(key: str, named_by: str) -> BeforeValidator:
    """Validator of a `settings` key: as the settings class of the method that the key `named_by` beside it names."""

    def read(given: Any, info: ValidationInfo) -> Any:
        if named_by not in info.data:  # the name is wrong, which is an error of its own
            return MethodSettings()
        return registry(key).settings_class(info.data[named_by]).model_validate(given)

    return BeforeValidator(read)
