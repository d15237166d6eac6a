"""Gains folded into the output projections, and taken out again."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coldframe.config import local_path
from coldframe.errors import ArtifactError, ColdframeError, ConfigError, ModelError
from coldframe.frozen.hooks import attach_head_gains
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.model_sources import locate
from coldframe.methods.head_gains.checkpoint_files import copy_checkpoint, find_tensor, read_tensor, tensor_files
from coldframe.methods.head_gains.config import ReweightConfig
from coldframe.methods.head_gains.gains_file import FOLDER, read_gains, write_gains
from coldframe.methods.head_gains.reweighting import Reweighting
from coldframe.storage.artifact import MANIFEST
from coldframe.storage.files import atomic_path

NOTE = "coldframe_head_gains"  # the one key that is added to config.json
_PLAIN = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclasses.dataclass(frozen=True)
class Folded:
    """Where the gains are now.

    Attributes:
        folded: Whether they are in the weights; otherwise these are packed, and the gains stay beside them.
        dtype: Of the weights they were folded into.
        rounding: Root of the mean squared rounding error of the changed weights, relative to their size; 0 if
            nothing was folded.
    """

    folded: bool
    dtype: str
    rounding: float


@dataclasses.dataclass(frozen=True)
class Unfolded:
    """The result of taking gains out.

    Attributes:
        tensors: Weights that were changed back.
        inexact: Those of them that are not the base model's to the bit.
    """

    tensors: tuple[str, ...]
    inexact: tuple[str, ...]


def fold_columns(weight: Tensor, gains: Tensor, axis: int = 1) -> Tensor:
    """``O_h <- g_h O_h`` for every head: the model with gains on its heads, at no cost.

    The product is made in float32 (or float64) and rounded once to the weight's dtype. In float32 that agrees with
    gains on the head's outputs to 1e-7; in bf16 every changed weight moves by up to 0.4 % of itself. A head whose
    gain is 1 keeps its weights bit for bit.

    Shapes:
        weight: ``[d, heads * head_dim]``, or transposed with ``axis=0`` -> the same; gains: ``[heads]``.

    >>> fold_columns(torch.ones(1, 4), torch.tensor([0.5, 1.0]))
    tensor([[0.5000, 0.5000, 1.0000, 1.0000]])
    """
    return (weight.to(_wide(weight)) * _factors(weight, gains, axis)).to(weight.dtype)


def unfold_columns(weight: Tensor, gains: Tensor, axis: int = 1) -> Tensor:
    """``O_h <- O_h / g_h``: the inverse of :func:`fold_columns`, up to the rounding of both."""
    return (weight.to(_wide(weight)) / _factors(weight, gains, axis)).to(weight.dtype)


def is_packed(lm: FrozenLM) -> bool:
    """Whether an output projection is quantised, so that its columns cannot be scaled."""
    if getattr(lm.model.config, "quantization_config", None) is not None:
        return True
    weights = [getattr(lm.anatomy.o_proj(i), "weight", None) for i in range(lm.anatomy.n_layers)]
    return any(not isinstance(w, Tensor) or type(w.data) is not Tensor or w.dtype not in _PLAIN for w in weights)


def attach(lm: FrozenLM, folder: str | Path) -> None:
    """Put gains from a folder onto a loaded base model for good, as hooks: the way for packed weights.

    The model's ``weight_hash`` becomes another one, as its answers do: artifacts that are fitted on it load on nothing
    else, and gains go onto it once.

    Args:
        lm: The base model.
        folder: What ``coldframe reweight`` wrote.

    Raises:
        ArtifactError: If the gains belong to another model.
    """
    gains_file = read_gains(folder)
    base = gains_file.manifest["base_model"]
    if base["weight_hash"] != lm.weight_hash:
        raise ArtifactError("The gains belong to another model", got=lm.weight_hash[:12], expected=base["name"])
    attach_head_gains(lm.anatomy, gains_file.gains.to(lm.device))
    lm.stamp(f"head gains {gains_file.gains.flatten().tolist()}")
    lm.states.clear()


def save_reweighted(
    lm: FrozenLM, config: ReweightConfig, reweighting: Reweighting, out: str | Path, page: str | None = None
) -> Folded:
    """Write a reweighted model: an ordinary checkpoint with the gains in it, and the gains beside it.

    Everything but the scaled weights and one key of ``config.json`` is the base checkpoint's, byte for byte, in
    its own dtype whatever ``lm`` was loaded as. Of a packed (quantised) model the gains alone are written.

    Args:
        lm: The base model, loaded by name.
        config: How the gains were made.
        reweighting: The gains.
        out: A folder that does not exist.
        page: HTML to stand beside the gains.

    Raises:
        ConfigError: If the model was made in memory, or is reweighted already.
        ColdframeError: If the folder exists or cannot be written.

    Cost: the checkpoint is read and written once, one shard in memory at a time.
    """
    out = local_path(out)
    refuse_existing(out)
    source = source_of(lm)
    packed, name = source is None, str(lm.provenance["name"])
    values = _values(lm, config, reweighting, folded=not packed)
    gains, effects = reweighting.gains, reweighting.effects.by_pair(config.effect)
    if source is None:
        with atomic_path(out) as temporary:
            write_gains(temporary, {**values, "tensors": []}, gains, effects, page)
        return Folded(False, "packed", 0.0)
    files, fold = tensor_files(source), _Fold(lm)
    changes = {}
    for layer in sorted({layer for layer, _ in reweighting.heads}):
        tensor = find_tensor(files, fold.tail(layer))
        changes[tensor] = lambda weight, n=tensor, i=layer: fold.change(n, i, weight, gains[i])
    note = {"method": "pear", "base_model": name, "base_weight_hash": lm.weight_hash, "gains": f"{FOLDER}/{MANIFEST}"}
    with atomic_path(out) as temporary:
        copy_checkpoint(source, temporary, changes, lambda values: values.update({NOTE: note}))
        write_gains(temporary, {**values, "tensors": fold.tensors}, gains, effects, page)
    return Folded(True, fold.dtype, fold.rounding)


def unfold(folder: str | Path, out: str | Path, base: str | None = None) -> Unfolded:
    """Write the base model again from a reweighted checkpoint and its small artifact.

    With ``base`` the scaled weights are taken from it, so what is written is the base model's to the bit. Without,
    they are divided by their gains; rounding may then leave a weight one step beside where it was, and checksums
    tell in which tensors. A gain of 0 leaves nothing to divide.

    Args:
        folder: What ``coldframe reweight`` wrote.
        out: A folder that does not exist.
        base: The base model: a built-in name, a folder or a hub id.

    Raises:
        ArtifactError: If there is nothing to take out, the weights changed since, or ``base`` is another model.
    """
    folder, out = local_path(folder), local_path(out)
    refuse_existing(out)
    gains_file = read_gains(folder)
    entries = {entry["name"]: entry for entry in gains_file.manifest["tensors"]}
    if not entries:
        raise ArtifactError("The gains are not in the weights: there is nothing to take out", got=str(folder))
    originals = tensor_files(locate(base)[0]) if base is not None else None
    if originals is None and not bool(gains_file.gains.all()):
        raise ArtifactError("A gain is 0, so the weights it took away are gone", fix="Name the base model.")
    inexact = []

    def change(name: str, weight: Tensor) -> Tensor:
        entry = entries[name]
        if _digest(weight) != entry["folded_sha256"]:
            raise ArtifactError(f"{name} was changed after the gains were folded in", got=str(folder))
        if originals is not None:
            weight = read_tensor(originals, name) if name in originals else weight
        else:
            weight = unfold_columns(weight, gains_file.gains[entry["layer"]], entry["axis"])
        if _digest(weight) != entry["base_sha256"]:
            if originals is not None:
                expected = "{name} ({weight_hash:.12})".format(**gains_file.manifest["base_model"])
                raise ArtifactError(f"{base} is not the model that was reweighted", expected=expected)
            inexact.append(name)
        return weight

    changes = {name: (lambda weight, n=name: change(n, weight)) for name in entries}
    with atomic_path(out) as temporary:
        copy_checkpoint(folder, temporary, changes, lambda values: values.pop(NOTE, None))
    return Unfolded(tuple(entries), tuple(inexact))


def source_of(lm: FrozenLM) -> Path | None:
    """The checkpoint that gains of a model are folded into; None if its weights are packed. Ask before the work."""
    if is_packed(lm):
        return None
    name = str(lm.provenance["name"])
    if lm.provenance.get("source") == "memory":
        raise ConfigError("A model that was made in memory has no checkpoint to fold into", got=name)
    source = locate(name, lm.provenance.get("revision"))[0]
    if (source / FOLDER).exists():  # the way back is for one set of gains
        fix = f"Take the gains out first: coldframe unfold {source} --out DIR."
        raise ConfigError(f"{source} is reweighted already", fix=fix)
    return source


def refuse_existing(out: Path) -> None:
    """An error for a place that is taken, before the work and not after it."""
    if out.exists():
        raise ColdframeError(f"{out} exists already", fix="Choose another --out: a checkpoint is never overwritten.")


class _Fold:
    """Scales output projections and remembers what undoing and reporting it takes."""

    def __init__(self, lm: FrozenLM) -> None:
        self.anatomy = lm.anatomy
        self.tensors: list[dict[str, Any]] = []
        self.dtype = ""
        self._error = self._size = 0.0

    @property
    def rounding(self) -> float:
        return math.sqrt(self._error / self._size) if self._size else 0.0

    def tail(self, layer: int) -> str:
        """End of the name of a layer's output projection in a checkpoint."""
        anatomy = self.anatomy.anatomy
        return f"{anatomy.layers.rpartition('.')[2]}.{layer}.{anatomy.o_proj}.weight"

    def change(self, name: str, layer: int, weight: Tensor, gains: Tensor) -> Tensor:
        o_proj: Any = self.anatomy.o_proj(layer)
        axis = 1 if isinstance(o_proj, torch.nn.Linear) else 0  # transformers' Conv1D is transposed
        if tuple(weight.shape) != tuple(o_proj.weight.shape) or weight.dtype not in _PLAIN:
            raise ModelError(f"{name} is not stored as a plain matrix", got=f"{tuple(weight.shape)} {weight.dtype}")
        folded = fold_columns(weight, gains, axis)
        scaled = (_factors(weight, gains, axis) != 1).expand(weight.shape)
        exact = (weight.double() * _factors(weight, gains, axis))[scaled]
        self._error += float((folded.double()[scaled] - exact).square().sum())
        self._size += float(exact.square().sum())
        self.dtype = str(weight.dtype).removeprefix("torch.")
        checksums = {"base_sha256": _digest(weight), "folded_sha256": _digest(folded)}
        self.tensors.append({"name": name, "layer": layer, "axis": axis, **checksums})
        return folded


def _values(lm: FrozenLM, config: ReweightConfig, reweighting: Reweighting, folded: bool) -> dict[str, Any]:
    from coldframe import __version__

    effects, gains = reweighting.effects.mean(config.effect), reweighting.gains
    return {
        "coldframe_version": __version__,
        "method": "pear",
        "base_model": {**lm.provenance, "weight_hash": lm.weight_hash, "dtype": str(lm.dtype)},
        "config": config.to_dict(),
        "heads": [
            {"layer": layer, "head": head, "effect": float(effects[layer, head]), "gain": float(gains[layer, head])}
            for layer, head in reweighting.heads
        ],
        "stability": reweighting.effects.stability(config.effect),
        "history": list(reweighting.history),
        "folded": folded,
    }


def _wide(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)


def _factors(weight: Tensor, gains: Tensor, axis: int) -> Tensor:
    """A factor for each column (or row), broadcast over the other axis."""
    factors = gains.to(_wide(weight)).repeat_interleave(weight.shape[axis] // len(gains))
    return factors if axis == 1 else factors[:, None]


def _digest(weight: Tensor) -> str:
    return hashlib.sha256(weight.contiguous().view(torch.uint8).numpy().data).hexdigest()
