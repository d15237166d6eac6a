"""``coldframe export``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro

from coldframe.cli.output import print_json, tell
from coldframe.cli.parsing import parse
from coldframe.config import Config
from coldframe.methods.forms import Form


@dataclasses.dataclass(frozen=True)
class Export(Config):
    """Write what an artifact learned in a form that other libraries and servers load.

    LoRA and the adapters of passages leave as peft folders, as GGUF files with scales (llama.cpp) or as tensors with
    their config (SGLang); soft tokens as safetensors; PEAR as an ordinary checkpoint; methods that only write prompts
    as these. What depends on the query is written for the queries that are named.

    For example:
      coldframe export runs/lora out/lora
      coldframe export runs/facts out/adapters --query "Who is the mayor of Lovokor?"
      coldframe export runs/facts out/page --entries page-3 --form gguf
      coldframe export runs/b3db out/tokens --query CCO --query CCN

    Args:
        artifact: Folder that `coldframe fit` wrote, or a hub repository.
        out: Folder to write; it must not exist.
        query: An input whose adapter, soft tokens or prompt is wanted; may be given several times.
        entries: Ids of entries of the store in their place: the adapter of one passage, or of several combined.
        form: The form; left out, the method's usual one.
        share_rows: Rows of the store may stand in what is written as text (prompts).
        json: Print the result as JSON.
        quiet: Nothing on standard error.
    """

    artifact: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR")]
    out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")]
    query: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="TEXT")] = ()
    entries: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ID ...")] = ()
    form: Form | None = None
    share_rows: bool = False
    json: bool = False
    quiet: bool = False


def run(argv: Sequence[str]) -> None:
    """Load, write, say what a server needs to know."""
    options = parse(Export, "export", argv)
    from coldframe.pipeline.pipeline import load

    exported = load(options.artifact).export(
        options.out,
        queries=options.query,
        entries=options.entries,
        form=options.form,
        share_rows=options.share_rows,
    )
    if options.json:
        print_json({"folder": str(exported.folder), "form": exported.form, "notes": list(exported.notes)})
        return
    tell([f"wrote {exported.folder} ({exported.form})"], options.quiet)
    print("\n".join(exported.notes))
