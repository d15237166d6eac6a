"""An adapter as an ordinary LoRA folder, for peft and for servers that load such folders."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from coldframe.frozen.model import FrozenLM
from coldframe.methods.weight_deltas.adapters import Factors, Layout


def write_lora(folder: Path, lm: FrozenLM, layout: Layout, factors: Factors, scale: float) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``, float32, into a new folder."""
    folder.mkdir(parents=True)
    rank = int(factors[0][0].shape[0])
    tensors = {}
    for name, (a, b) in zip(layout.names, factors, strict=True):
        tensors[f"base_model.model.{name}.lora_A.weight"] = a.float().clone().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = b.float().clone().contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    alpha = scale * rank  # servers want a whole number where it is one
    transposed = type(lm.model.get_submodule(layout.names[0])).__name__ == "Conv1D"
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name(lm),
        "inference_mode": True,
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "target_modules": targets(lm, layout),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def base_name(lm: FrozenLM) -> str:
    """What opens the base model again with transformers: a hub id, else the folder of its checkpoint.

    The short names of coldframe mean nothing to other libraries.
    """
    folder = Path(str(getattr(lm.model.config, "_name_or_path", "")) or "-")
    hub = lm.provenance.get("source") == "hub"
    return str(folder.resolve()) if not hub and folder.is_dir() else str(lm.provenance["name"])


def targets(lm: FrozenLM, layout: Layout) -> list[str]:
    """Last parts of the targets' names where these mean no other module, as servers want them; else whole names."""
    ends = sorted({name.rpartition(".")[2] for name in layout.names})
    matches = [name for name, _ in lm.model.named_modules() if name.rpartition(".")[2] in ends]
    return ends if sorted(matches) == sorted(layout.names) else list(layout.names)
