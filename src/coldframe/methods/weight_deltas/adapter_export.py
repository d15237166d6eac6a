"""Adapters as files: a folder that servers load by name, tensors with their config, or GGUF files with scales."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file

from coldframe.frozen.base_name import about_base, base_of
from coldframe.methods.export import ExportRequest
from coldframe.methods.weight_deltas.adapter import Adapter
from coldframe.methods.weight_deltas.gguf_lora import architecture_of, write_gguf
from coldframe.storage.files import write_json

SGLANG_TENSORS, SGLANG_CONFIG, SCALES = "lora_tensors.safetensors", "lora_config.json", "scales.json"


@dataclasses.dataclass(frozen=True)
class Part:
    """An adapter that is added up with others, with a scale of its own.

    Attributes:
        name: The same name is the same adapter.
        adapter: What is added.
        scale: Beside the adapter's own.
    """

    name: str
    adapter: Adapter
    scale: float = 1.0


def write_adapters(
    folder: Path, adapters: Sequence[Adapter], names: Sequence[str], request: ExportRequest
) -> list[str]:
    """Write one adapter into a folder, or several into folders of their own; returns what to know of them."""
    single = len(adapters) == 1
    for name, adapter in zip(names, adapters, strict=True):
        home = folder if single else folder / name
        if request.form == "peft":
            adapter.save(home)
        else:
            home.mkdir(parents=True)
            save_file(adapter.tensors(), home / SGLANG_TENSORS, metadata={"format": "pt"})
            write_json(home / SGLANG_CONFIG, adapter.config(), indent=2)
    first = adapters[0]
    notes = [about_base(first.lm), f"The rank is {first.rank}."]
    if request.form == "sglang":
        flags = f"--enable-lora --max-lora-rank {first.rank} --lora-target-modules all"
        call = f"load_lora_adapter_from_tensors(name, load_file({SGLANG_TENSORS!r}), json of {SGLANG_CONFIG!r})"
        return [*notes, f"SGLang: start with {flags}, then {call}."]
    base = shlex.quote(str(base_of(first.lm)["base_model_name_or_path"]))
    server = f"vllm serve {base} --enable-lora --max-lora-rank {first.server_rank}"
    if single:
        return [*notes, f"vLLM: {server} --lora-modules {shlex.quote(f'{request.out.name}={request.out}')}"]
    resolver = f"VLLM_PLUGINS=lora_filesystem_resolver VLLM_LORA_RESOLVER_CACHE_DIR={shlex.quote(str(request.out))}"
    return [
        *notes,
        f"vLLM: {resolver} VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 {server}",
        f"Each folder is an adapter; a request names it as its model: {names[0]}.",
    ]


def write_parts(folder: Path, wanted: Sequence[Sequence[Part]], names: Sequence[str]) -> list[str]:
    """Write every part once as GGUF, and which scales each request wants; returns what to know of them.

    Every request lists every file: what a request leaves out stays as the server was started.
    """
    folder.mkdir(parents=True)
    parts = {part.name: part.adapter for row in wanted for part in row}
    numbers = {name: number for number, name in enumerate(parts)}
    for name, adapter in parts.items():
        write_gguf(folder / f"adapter-{numbers[name]}.gguf", adapter)
    requests = []
    for name, row in zip(names, wanted, strict=True):
        scales = {part.name: part.scale for part in row}
        lora = [{"id": number, "scale": scales.get(part, 0.0)} for part, number in numbers.items()]
        requests.append({"name": name, "lora": lora})
    first = next(iter(parts.values()))
    files = [{"id": number, "file": f"adapter-{number}.gguf", "of": name} for name, number in numbers.items()]
    write_json(folder / SCALES, {"architecture": architecture_of(first), "adapters": files, "requests": requests})
    loads = " ".join(f"--lora adapter-{number}.gguf" for number in list(numbers.values())[:3])
    return [
        about_base(first.lm).partition(":")[0].rstrip(".") + ", which llama.cpp reads converted to GGUF.",
        f"llama.cpp: llama-server -m MODEL.gguf {loads}{' ...' if len(numbers) > 3 else ''}, in the order of {SCALES};",
        f"a request carries the list 'lora' that {SCALES} has for it, every id included.",
    ]
