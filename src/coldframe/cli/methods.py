"""``coldframe methods``."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from coldframe.cli.options import parse
from coldframe.cli.output import print_json
from coldframe.config import Config

if TYPE_CHECKING:
    from coldframe.methods.base import Method


@dataclasses.dataclass(frozen=True)
class Methods(Config):
    """List the methods, with the settings that --set takes.

    Args:
        json: Print the list as JSON.
    """

    json: bool = False


def run(argv: Sequence[str]) -> None:
    """Print what there is."""
    options = parse(Methods, "methods", argv)
    from coldframe.methods.registry import all_methods

    described = [describe(cls) for cls in all_methods().values()]
    if options.json:
        print_json(described)
        return
    for method in described:
        print(f"{method['name']:<14} {method['description']}")
        settings = ", ".join(f"{name}={value}" for name, value in method["settings"].items())
        print(f"{'':<14} {settings}")


def describe(cls: type[Method]) -> dict[str, Any]:
    """A method in plain data: the first line of its description, what it looks at, its settings."""
    lines = (inspect.getdoc(cls) or "").splitlines()
    return {
        "name": cls.name,
        "description": lines[0] if lines else "",
        "paper": cls.paper,
        "trainable": cls.trainable,
        "uses_retrieval": cls.uses_retrieval,
        "order_invariant": cls.order_invariant,
        "settings": cls.config_class().to_dict(),
    }
