"""Encoders: inputs as vectors, named by a short spec that an artifact can keep.

| spec | is | needs |
|---|---|---|
| ``morgan`` | Morgan bits, 2048 | extra ``chem`` |
| ``morgan+descriptors`` | the same with physico-chemical descriptors | extra ``chem`` |
| ``minilm`` | all-MiniLM-L6-v2, 384, unit length; comes from a PyPI wheel | - |
| ``hf:ID`` or ``hf:ID:POOLING`` | any transformers encoder; pooling ``mean`` (default), ``cls`` or ``last`` | - |
| ``st:ID`` | any sentence-transformers model, with its own pooling | extra ``text`` |

ID is a hub id or a local folder. An object is an encoder too: see :mod:`coldframe.retrieval.encoder_objects`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast, get_args

import numpy as np
from numpy.typing import NDArray

from coldframe.errors import ConfigError, nearest
from coldframe.tasks.task import Domain


class Encoder(Protocol):
    """Turns inputs into vectors; a pure function of each input, to the bit, whatever is encoded beside it."""

    @property
    def spec(self) -> str:
        """Rebuilds it: ``load_encoder(encoder.spec)``."""
        ...

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        ...

    @property
    def takes_label_text(self) -> bool:
        """Whether a label can be joined to the input as text (not to a molecule)."""
        ...

    @property
    def hash(self) -> str:
        """Names the function: the settings and, if there are any, the weights."""
        ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors, float32 ``[n, dim]``. What was encoded lately may be remembered."""
        ...


#: Encoders that were passed as objects, by their specs.
objects: dict[str, Encoder] = {}


def load_encoder(spec: str) -> Encoder:
    """The encoder that a spec names.

    Weights are loaded when first needed, so an unreachable model is an error at the first use.

    Raises:
        ConfigError: The spec is not one of those above.

    Example:
        >>> load_encoder("morgan").dim
        2048
    """
    # One module per family, imported when asked for: fingerprints must not import torch.
    if spec == "morgan":
        from coldframe.retrieval.molecules import MorganEncoder

        return MorganEncoder()
    if spec == "morgan+descriptors":
        from coldframe.retrieval.descriptors import MorganDescriptorsEncoder

        return MorganDescriptorsEncoder()
    if spec == "minilm":
        from coldframe.retrieval.neural import MiniLM

        return MiniLM()
    if spec in objects:
        return objects[spec]
    family, _, rest = spec.partition(":")
    if family == "object":
        fix = "Pass the object itself: encoder=..., or coldframe.load(path, encoder=...)."
        raise ConfigError(f"{spec!r} is an encoder object that this process does not hold", fix=fix)
    if family == "st" and rest:
        from coldframe.retrieval.neural import SentenceTransformersEncoder

        return SentenceTransformersEncoder(rest)
    if family == "hf" and rest:
        from coldframe.retrieval.neural import HFEncoder, Pooling

        source, colon, pooling = rest.rpartition(":")
        if not colon:
            return HFEncoder(rest)
        if pooling not in get_args(Pooling):
            raise ConfigError(f"{pooling!r} in {spec!r} is not a pooling", fix=nearest(pooling, get_args(Pooling)))
        return HFEncoder(source, cast(Pooling, pooling))
    known = ("morgan", "morgan+descriptors", "minilm", "hf:<id>[:mean|cls|last]", "st:<id>")
    raise ConfigError(f"{spec!r} is not an encoder", fix=nearest(spec, known))


def default_encoder(domain: Domain) -> str:
    """The spec used where the user names none.

    Example:
        >>> default_encoder("molecules"), default_encoder("text")
        ('morgan+descriptors', 'minilm')
    """
    return "morgan+descriptors" if domain == "molecules" else "minilm"


def encoder_spec(spec: str, domain: Domain) -> str:
    """The spec itself, or the domain's default for ``"auto"``.

    >>> encoder_spec("auto", "text"), encoder_spec("morgan", "molecules")
    ('minilm', 'morgan')
    """
    return default_encoder(domain) if spec == "auto" else spec
