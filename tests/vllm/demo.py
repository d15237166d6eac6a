"""A real vLLM on this machine's processor, the gateway before it, and a question to an artifact.

    python -m tests.vllm.demo [ARTIFACT] [--once]

It serves until Ctrl-C, or ends after the answer (``--once``). vLLM gets an environment of its own: tests.vllm.server.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from tests.serving.gateway.support import Process
from tests.vllm import server

from coldframe.frozen.devices import dtype_of
from coldframe.storage.artifact import MANIFEST


def say(text: str) -> None:
    """To the terminal, at once."""
    print(text, flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.vllm.demo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("artifact", nargs="?", type=Path, default=Path("coldframe-demo/artifact"))
    parser.add_argument("--query", default="CC(=O)OC1=CC=CC=C1C(=O)O")
    parser.add_argument("--once", action="store_true", help="end after the answer")
    options = parser.parse_args()
    manifest = options.artifact / MANIFEST
    if not manifest.is_file():
        parser.error(f"there is no artifact in {options.artifact}: run `make demo` first, or name another")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # vLLM is ended on every way out
    started = time.monotonic()
    if not server.ready():
        say(f"serve-demo: installing vLLM {server.VLLM} for processors into {server.home()} (2.5 GB, once)")
        server.make()
    model = json.loads(manifest.read_text(encoding="utf-8"))["base_model"]["name"]
    dtype = str(dtype_of("auto", torch.device("cpu"))).removeprefix("torch.")
    say(f"serve-demo: starting vLLM with {model} in {dtype} (about a minute)")
    with tempfile.TemporaryDirectory() as folder, server.running(model, dtype, Path(folder)) as url:
        words = ["serve", "--adapter", f"demo={options.artifact}", "--backend", url]
        say(f"serve-demo: coldframe {shlex.join(words)}")
        with Process("coldframe", *words, "--port", "0") as gateway:
            body = {"adapter": "demo", "inputs": [options.query]}
            header = "-H 'Content-Type: application/json'"
            say(f"serve-demo: curl {gateway.url}/v1/predict {header} -d '{json.dumps(body)}'")
            status, answer = gateway.post("/v1/predict", body)
            if status != 200:
                raise SystemExit(json.dumps(answer))
            say(json.dumps(answer, indent=1))
            say(f"serve-demo: answered {time.monotonic() - started:.0f} s after the start")
            if not options.once:
                say(f"serve-demo: the page is at {gateway.url}/; Ctrl-C ends all")
                with contextlib.suppress(KeyboardInterrupt):
                    threading.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
