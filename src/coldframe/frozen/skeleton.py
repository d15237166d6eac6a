"""A checkpoint without its weights in memory: what a client of a server needs of the model that the server runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from coldframe.errors import ModelError, first_line
from coldframe.frozen.anatomy import anatomy_of
from coldframe.frozen.model_folder import check_claims
from coldframe.frozen.model_sources import (
    joined_digests,
    load_checkpoint,
    locate,
    parameter_digest,
    quiet,
    tokenizer_of,
    weight_hash,
)
from coldframe.storage.checksums import hash_once

_PACKED = "A packed (quantized) checkpoint has other tensors than its model: pass the one that it was made from."


class Skeleton:
    """The tokenizer, the config, the shapes of all parts, and the embedding matrix, mapped from the disk.

    Args:
        name: A built-in name, a local folder, or a hub id, as for :func:`coldframe.load_lm`.
        revision: Of a hub id.

    Attributes:
        folder: Where the files are.
        provenance: Where they came from.
        tokenizer: The model's.
        model: The model on torch's ``meta`` device: modules and shapes, not a single number.
        anatomy: Its parts.
        matrix: ``[vocabulary, d_model]``, in the checkpoint's dtype. A row is read from the disk when it is used.

    Raises:
        ModelError: The folder is not one that :func:`coldframe.load_lm` could load.

    Cost:
        Parts of a second, however large the model is.
    """

    def __init__(self, name: str, revision: str | None = None) -> None:
        self.folder, self.provenance = locate(name, revision)
        try:
            check_claims(self.folder)
            self.tokenizer = tokenizer_of(self.folder)
            self.model = _without_weights(self.folder)
        except Exception as error:  # whatever a damaged folder makes its readers raise
            raise ModelError(
                f"Cannot read the checkpoint {name!r} in {self.folder}: {first_line(error)}",
                fix="Expected: what coldframe.load_lm could load: config.json, *.safetensors and a tokenizer.",
            ) from error
        self.anatomy = anatomy_of(self.model)
        self._places = dict(_tensors(self.folder))
        self.matrix = self._tensor(f"{self.anatomy.anatomy.embeddings}.weight")

    def embed(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Embeddings of token ids, as the model makes them when it is loaded as ``dtype``."""
        rows = self.matrix[ids].to(dtype)
        scale = self.anatomy.embedding_scale
        return rows if scale == 1 else rows * torch.tensor(scale).to(dtype)

    def weight_hash(self, dtype: torch.dtype) -> str:
        """:func:`~coldframe.frozen.model_sources.weight_hash` of the model as it would be loaded as ``dtype``.

        Cost: the files are read, tensor by tensor, once for each state that they are in; then the hash is remembered.
        Files that do not hold the weights as they are in memory (a packed checkpoint) are loaded for it, that once.
        """
        files = sorted({path for path, _ in self._places.values()})

        def compute() -> str:
            try:
                return joined_digests(
                    parameter_digest(name, tensor.to(dtype) if tensor.is_floating_point() else tensor)
                    for name, tensor in ((name, self._tensor(name)) for name, _ in self.model.named_parameters())
                )
            except ModelError:
                return weight_hash(load_checkpoint(str(self.folder), dtype)[0])

        return hash_once(files, [str(dtype)], compute)

    def _tensor(self, name: str) -> Tensor:
        """A parameter of the model from the files, in which the first words of its path may be others."""
        shape = self.model.get_parameter(name).shape
        end = ".".join(name.split(".")[-2:])
        names = [name] if name in self._places else [key for key in self._places if f".{key}".endswith(f".{end}")]
        if len(names) != 1:
            raise ModelError(
                f"{self.folder} does not say which tensor is {name}", got=len(names), expected="one", fix=_PACKED
            )
        path, key = self._places[names[0]]
        with safe_open(path, framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(key)
        if tensor.shape != shape:
            raise ModelError(f"{name} has another shape", got=tuple(tensor.shape), expected=tuple(shape), fix=_PACKED)
        return tensor


def _without_weights(folder: Path) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with quiet(), torch.device("meta"):
        config = AutoConfig.from_pretrained(str(folder), **local)
        model = AutoModelForCausalLM.from_config(config)
        model.tie_weights()
        with suppress(OSError):  # a folder need not have one
            model.generation_config = GenerationConfig.from_pretrained(str(folder), local_files_only=True)
    return model.eval().requires_grad_(False)


def _tensors(folder: Path) -> Iterator[tuple[str, tuple[Path, str]]]:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as opened:
            keys: Sequence[str] = list(opened.keys())
        for key in keys:
            yield key, (path, key)
