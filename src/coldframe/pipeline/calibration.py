"""The names of the ways to correct the scores of labels; what they do is in :mod:`coldframe.pipeline.label_bias`."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from coldframe.errors import ConfigError, nearest

Calibration: TypeAlias = Literal["none", "contextual", "batch", "prior", "validation"]
"""Only ``"prior"`` and ``"validation"`` look at labels of validation rows."""


def calibration(value: bool | str) -> Calibration:
    """A way by its name; True and False are ``"validation"`` and ``"none"``.

    >>> calibration(True), calibration("batch")
    ('validation', 'batch')

    Raises:
        ConfigError: There is no such way.
    """
    name = ("none", "validation")[value] if isinstance(value, bool) else value
    ways: tuple[Calibration, ...] = get_args(Calibration)
    for way in ways:
        if way == name:
            return way
    problem = f"There is no way {name!r} to correct the scores of labels"
    raise ConfigError(problem, expected=", ".join(ways), fix=nearest(str(name), ways))
