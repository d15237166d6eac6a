"""An adapter as a GGUF file for llama.cpp, which adds several of them, each with a scale, in one request."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coldframe.errors import ConfigError
from coldframe.methods.weight_deltas.adapter import Adapter


@dataclasses.dataclass(frozen=True)
class _Kind:
    """How llama.cpp holds an architecture of transformers.

    Attributes:
        name: In ``gguf.MODEL_ARCH``.
        permuted: Whether the rows of q and k stand in another order (each head's halves are interleaved).
        moves_fused: Whether the rows of a fused projection of q, k and v do.
    """

    name: str
    permuted: bool = False
    moves_fused: bool = False


_KINDS = {
    "llama": _Kind("LLAMA", permuted=True),
    "mistral": _Kind("LLAMA", permuted=True),
    "qwen2": _Kind("QWEN2"),
    "qwen3": _Kind("QWEN3"),
    "gemma3_text": _Kind("GEMMA3"),
    "phi": _Kind("PHI2"),
    "phi3": _Kind("PHI3"),
    "gpt2": _Kind("GPT2"),
    "gpt_neox": _Kind("GPTNEOX", moves_fused=True),
    "falcon": _Kind("FALCON", moves_fused=True),
    "bloom": _Kind("BLOOM", moves_fused=True),
}


def write_gguf(path: Path, adapter: Adapter) -> None:
    """Write one adapter, float32; llama.cpp scales it by ``alpha / r``, times the scale of the request.

    Raises:
        ConfigError: llama.cpp does not know the architecture, or keeps a target otherwise than its rows lie here.

    Cost: one pass over the factors.
    """
    import gguf

    kind = _kind_of(adapter)
    architecture = getattr(gguf.MODEL_ARCH, kind.name)
    names = gguf.get_tensor_name_map(architecture, adapter.lm.anatomy.n_layers)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, adapter.scale * adapter.rank)
    for module, (a, b) in adapter.factors.items():
        place = names.get_name(f"{module}.weight", try_suffixes=(".weight",))
        if place is None or (kind.moves_fused and "attn_qkv" in place):
            raise ConfigError(
                f"llama.cpp holds {module} in another form than the checkpoint: its adapter cannot be written as GGUF",
                fix="Fit with targets='mlp', or take --form peft.",
            )
        writer.add_tensor(f"{place}.lora_a", np.ascontiguousarray(a.numpy()))
        writer.add_tensor(f"{place}.lora_b", np.ascontiguousarray(_rows(adapter, kind, place, b.numpy())))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def architecture_of(adapter: Adapter) -> str:
    """What llama.cpp calls the architecture."""
    import gguf

    return str(gguf.MODEL_ARCH_NAMES[getattr(gguf.MODEL_ARCH, _kind_of(adapter).name)])


def _kind_of(adapter: Adapter) -> _Kind:
    model_type = str(adapter.lm.model.config.model_type)
    if model_type not in _KINDS:
        raise ConfigError(
            f"An adapter of {model_type} cannot be written as GGUF",
            expected=", ".join(_KINDS),
            fix="Take --form peft.",
        )
    return _KINDS[model_type]


def _rows(adapter: Adapter, kind: _Kind, place: str, b: NDArray[np.float32]) -> NDArray[np.float32]:
    """B with its rows, the weight's, in llama.cpp's order: of a head first 0, then d/2, then 1, then d/2 + 1, ..."""
    if not kind.permuted or not any(end in place for end in (".attn_q.", ".attn_k.")):
        return b
    heads = len(b) // adapter.lm.anatomy.head_dim
    return b.reshape(heads, 2, -1, b.shape[1]).swapaxes(1, 2).reshape(b.shape)
