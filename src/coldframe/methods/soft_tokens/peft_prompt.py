"""A prompt that is the same for every query, as the folder of PEFT's Prompt Tuning."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from coldframe.frozen.base_name import about_base, base_of
from coldframe.frozen.model import FrozenLM
from coldframe.storage.files import write_json


def write_peft_prompt(folder: Path, lm: FrozenLM, prompt: Tensor) -> list[str]:
    """Write ``prompt``, ``[m, d_model]``, which stands after BOS; returns what to know of it.

    PEFT puts its virtual tokens before everything. Where the tokenizer puts a BOS first, its embedding becomes the
    first virtual token, and the text has to be tokenised without one.
    """
    folder.mkdir(parents=True)
    bos = lm.embed(torch.tensor(lm.bos, dtype=torch.long, device=lm.device)) if lm.bos else prompt[:0]
    rows = torch.cat((bos.to(prompt), prompt)).detach().float().cpu().contiguous()
    save_file({"prompt_embeddings": rows}, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "PROMPT_TUNING",
        "task_type": "CAUSAL_LM",
        **base_of(lm),
        "inference_mode": True,
        "num_virtual_tokens": len(rows),
        "token_dim": rows.shape[1],
        "num_transformer_submodules": 1,
        "num_attention_heads": lm.anatomy.n_heads,
        "num_layers": lm.anatomy.n_layers,
        "prompt_tuning_init": "RANDOM",
    }
    write_json(folder / "adapter_config.json", config, indent=2)
    notes = [about_base(lm), f"{len(rows)} virtual tokens for peft; vLLM loads no prompts by name."]
    if lm.bos:
        notes.append("The first of them is BOS: tokenise the text with add_special_tokens=False.")
    return notes
