"""Encoders that are objects: what a program holds already, in the place of a name to load it by.

Settings are plain data, so an object gets a spec, ``object:HASH``, under which this process finds it again.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from coldframe.errors import ColdframeError, ConfigError, first_line
from coldframe.retrieval.encoders import Encoder, load_encoder, objects
from coldframe.retrieval.encoding import Memo, encoding
from coldframe.tasks.task import content_hash

PREFIX = "object:"

# Two languages, for an object may read only one of them: words, and molecules.
_PROBES = ("The cat is on the mat, and it is not yours.", "CCO", "c1ccccc1")
_MEMBERS = ("spec", "dim", "hash", "takes_label_text")

_sources: dict[str, str | None] = {}


class EncoderObject:
    """Any object with ``encode(texts) -> vectors`` as an encoder.

    It is asked for one text at a time: vectors that depend on what is encoded beside them could not be had again.
    What it is called by is the hash of the vectors of a few texts, rounded to a hundredth of the largest number.

    Args:
        source: Takes a list of texts; gives an array, a tensor or lists of numbers, ``[n, dim]``.

    Raises:
        ConfigError: It gives no such vectors.

    Cost: one call for each new text.

    Example:
        >>> class Lengths:
        ...     def encode(self, texts):
        ...         return [[len(text), 1.0] for text in texts]
        >>> EncoderObject(Lengths()).encode(["CCO", "C"]).tolist()
        [[3.0, 1.0], [1.0, 1.0]]
    """

    def __init__(self, source: Any) -> None:
        self._source, self._lock = source, Lock()
        self.takes_label_text = bool(getattr(source, "takes_label_text", True))
        vectors, problem = [], ""
        for text in _PROBES:
            try:
                vectors.append(self._vector(text))
            except Exception as error:  # words are no molecules to one, and molecules no words to another
                problem = problem or first_line(error)
        if not vectors or len({len(vector) for vector in vectors}) > 1:
            raise ConfigError(
                f"This {type(source).__name__} is no encoder of texts",
                got=problem or "vectors of different lengths",
                expected="encode(list of n texts) that gives an array [n, dim]",
            )
        self.dim = len(vectors[0])
        scaled = [vector / max(float(np.abs(vector).max()), 1e-30) for vector in vectors]
        rounded = [str((np.round(vector, 2) + 0.0).tolist()) for vector in scaled]  # + 0.0: there is no -0
        self.hash = content_hash("object", str(self.takes_label_text), *rounded)
        self.spec = PREFIX + self.hash
        self._memo = Memo(self._compute)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors, ``[n, dim]``."""
        return self._memo(texts, self.dim)

    def _compute(self, texts: list[str]) -> NDArray[np.float32]:
        vectors = np.empty((len(texts), self.dim), np.float32)
        with encoding(len(texts)) as bar:
            for row, text in enumerate(texts):
                vectors[row] = self._vector(text)
                bar.advance(1)
        return vectors

    def _vector(self, text: str) -> NDArray[np.float32]:
        with self._lock:
            vectors = self._source.encode([text])
        if hasattr(vectors, "detach"):
            vectors = vectors.detach().float().cpu()
        array = np.asarray(vectors, np.float32)
        if array.ndim != 2 or len(array) != 1 or not array.shape[1]:
            shape = f"an array of shape {list(array.shape)} for one text"
            raise ConfigError("An encoder gives a vector for each text", got=shape, expected="shape [1, dim]")
        vector: NDArray[np.float32] = array[0]
        return vector


def spec_of(encoder: object) -> str:
    """The spec of an encoder: a name as it is. An object is remembered by this process, under the spec returned.

    Args:
        encoder: A spec; a ``SentenceTransformer``; one of ours (:class:`coldframe.retrieval.encoders.Encoder`); or
            any object with ``encode(list of texts)``.

    Raises:
        ConfigError: It is none of these.

    >>> spec_of("minilm")
    'minilm'
    """
    if isinstance(encoder, str):
        return encoder
    if isinstance(encoder, type) or not callable(getattr(encoder, "encode", None)):
        raise ConfigError(
            "This is no encoder", got=repr(encoder)[:80], expected="its name, or an object with encode(list of texts)"
        )
    wrapped, source = _wrapped(encoder)
    spec = PREFIX + wrapped.hash
    objects.setdefault(spec, wrapped)
    _sources.setdefault(spec, source)
    return spec


def specs_in(settings: object) -> dict[str, str | None]:
    """The encoder objects that settings name, each with the spec that may load it by name, if there is any."""
    return {spec: _sources.get(spec) for spec in sorted(set(_strings(settings))) if spec in objects}


def restore(specs: Mapping[str, str | None]) -> None:
    """Find encoder objects again: those that this process holds, and others by the name that they came from.

    Raises:
        ColdframeError: One has no name, or what has that name now gives other vectors.
    """
    for spec, source in specs.items():
        if spec in objects:
            continue
        if not source or source.startswith(PREFIX):
            raise ColdframeError("The encoder is an object that has no name to load it by")
        encoder = load_encoder(source)
        if PREFIX + encoder.hash != spec:
            raise ColdframeError(
                f"The encoder is an object that came from {source!r}, which is another one now",
                got=encoder.hash,
                expected=spec.removeprefix(PREFIX),
            )
        objects[spec], _sources[spec] = encoder, source


def _wrapped(encoder: Any) -> tuple[Encoder, str | None]:
    """An object as an encoder, and the spec that may load it by name."""
    library = sys.modules.get("sentence_transformers")
    if library is not None and isinstance(encoder, library.SentenceTransformer):
        from coldframe.retrieval.neural import SentenceTransformersEncoder

        name = _name_of(encoder)
        return SentenceTransformersEncoder(name or type(encoder).__name__, encoder), name and f"st:{name}"
    if all(hasattr(encoder, member) for member in _MEMBERS):
        return cast(Encoder, encoder), str(encoder.spec)
    return EncoderObject(encoder), None


def _name_of(model: Any) -> str | None:
    """The folder or hub id that a SentenceTransformer was loaded from, as far as it knows."""
    with contextlib.suppress(AttributeError, IndexError, TypeError):
        name = str(model[0].auto_model.name_or_path or "")
        if name and Path(name).expanduser().is_dir():
            return str(Path(name).expanduser().resolve())
        return name or None
    return None


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)
