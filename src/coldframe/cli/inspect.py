"""``coldframe inspect``."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from coldframe.cli.output import print_json, show
from coldframe.cli.parsing import parse
from coldframe.config import Config, local_path


@dataclasses.dataclass(frozen=True)
class Inspect(Config):
    """What an artifact is: method, parameters, base model, exemplars, how it was trained. Its checksums are verified.

    For example:
      coldframe inspect runs/b3db
      coldframe inspect runs/b3db --json

    Args:
        artifact: Folder that `coldframe fit` wrote.
        json: Print everything as JSON.
    """

    artifact: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR")]
    json: bool = False


def run(argv: Sequence[str]) -> None:
    """Read and verify the folder; the base model is not loaded."""
    options = parse(Inspect, "inspect", argv)
    from safetensors.torch import load_file

    from coldframe.pipeline.saved import NEEDS, STORE
    from coldframe.retrieval.store import Store
    from coldframe.storage.artifact import read_artifact

    folder = local_path(options.artifact)
    artifact = read_artifact(folder, NEEDS)
    config = artifact.manifest
    store = Store.load(artifact / STORE)
    weights = {
        name: tensor
        for file in config["files"]
        if file.endswith(".safetensors")
        for name, tensor in load_file(artifact / file).items()
    }
    facts: dict[str, Any] = {
        **config,
        "artifact": str(folder),
        "parameters": {name: list(tensor.shape) for name, tensor in weights.items()},
        "trainable_parameters": sum(tensor.numel() for tensor in weights.values()),
        "classes_in_store": dict(Counter(e.target for e in store.examples).most_common(20)),
        "bytes": {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()},
    }
    if options.json:
        print_json(facts)
    else:
        _print(facts)


def _print(facts: dict[str, Any]) -> None:
    from coldframe.reports import terminal
    from coldframe.reports.blocks import Table
    from coldframe.reports.numbers import flatten

    base, schema, encoder = facts["base_model"], facts["schema"], facts["encoder"]
    took = f"{facts['seconds']:.0f} s"
    if facts.get("peak_memory_mb"):  # artifacts did not say it always
        took += f", {facts['peak_memory_mb']:,} MB at most"
    lines = {
        "method": f"{facts['method']}, {facts['trainable_parameters']:,} parameters",
        "settings": ", ".join(f"{name} {value}" for name, value in flatten(facts["method_config"])),
        "task": f"{schema['name']} ({schema['kind']}, {schema['domain']}), metric {schema['metric']}",
        "labels": ", ".join(schema["labels"]) or "none: it writes",
        "base model": f"{base['name']}, {base['dtype']}, weights {base['weight_hash'][:12]}",
        "encoder": f"{encoder['spec']} ({encoder['hash'][:12]})" if encoder else "none",
        "store": f"{facts['store']['size']:,} exemplars ({facts['store']['hash']})",
        "trained": f"{len(facts['history'])} epochs, {took}, coldframe {facts['coldframe_version']}",
        "files": ", ".join(f"{name} {size:,} B" for name, size in facts["bytes"].items()),
        "checksums": "as saved",
    }
    show(terminal.render([Table.plain(("", ""), list(lines.items()), words=(0, 1), title=facts["artifact"])]))
