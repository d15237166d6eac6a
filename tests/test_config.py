"""Every settings object refuses an unknown choice, however it is made."""

import dataclasses
import importlib
import pkgutil
import typing

import pytest

import coldframe
from coldframe.config import Config
from coldframe.errors import ConfigError


def configs(base: type[Config] = Config) -> set[type[Config]]:
    return {base}.union(*(configs(one) for one in base.__subclasses__()))


def choices() -> list[tuple[type[Config], str]]:
    """All fields with choices of all settings whose other fields have defaults."""
    for module in pkgutil.walk_packages(coldframe.__path__, "coldframe."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return [
        (one, name)
        for one in sorted(configs(), key=lambda one: f"{one.__module__}.{one.__qualname__}")
        if one.__module__.startswith("coldframe.")
        for name, hint in typing.get_type_hints(one).items()
        if typing.get_origin(hint) is typing.Literal
        and all(
            field.name == name
            or field.default is not dataclasses.MISSING
            or field.default_factory is not dataclasses.MISSING
            for field in dataclasses.fields(one)
        )
    ]


@pytest.mark.parametrize(("config", "name"), choices(), ids=lambda value: getattr(value, "__name__", value))
def test_an_unknown_choice_is_refused(config: type[Config], name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{config.section}\.{name} is not one of its choices"):
        config(**{name: "no such choice"})
    with pytest.raises(ConfigError, match="is not one of its choices"):
        config.from_dict({name: "no such choice"})
