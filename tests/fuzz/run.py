"""Fuzz all readers: with atheris, which follows the branches, where it is installed; else by random changes.

Usage: python -m tests.fuzz.run [INPUTS [SECONDS]]

The first byte of an input names the reader. What makes a reader raise anything but our own errors, or take longer than
a second for an input, is written to ``fuzz-failures/`` and ends the run with status 1.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

try:
    import atheris
except ImportError:
    atheris = None

if atheris is not None:
    with atheris.instrument_imports(include=["coldframe.storage", "coldframe.tasks", "coldframe.config"]):
        from tests.fuzz.readers import READERS, read
else:
    from tests.fuzz.readers import READERS, read

CORPUS = Path(__file__).parent / "corpus"
FAILURES = Path("fuzz-failures")
SLOW = 1.0
# A table is read through many layers, a thousand times slower than the others.
TURNS = [name for name in READERS for _ in range(1 if name in ("table", "settings") else 8)]
counts: dict[str, int] = dict.fromkeys(READERS, 0)
failures: list[str] = []


def one(data: bytes) -> None:
    """Read one input and count it."""
    if not data:
        return
    name = TURNS[data[0] % len(TURNS)]
    counts[name] += 1
    started = time.perf_counter()
    try:
        read(name, data[1:])
        problem = "" if time.perf_counter() - started < SLOW else "slow"
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    if problem:
        FAILURES.mkdir(exist_ok=True)
        (FAILURES / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}").write_bytes(data[1:])
        failures.append(f"{name}: {problem[:200]}")
        print(f"fuzz: {failures[-1]}", file=sys.stderr, flush=True)


def seeds() -> list[bytes]:
    """Every kept input, for every reader."""
    inputs = [path.read_bytes() for path in sorted(CORPUS.iterdir())]
    return [bytes([TURNS.index(name)]) + data for data in inputs for name in READERS]


def changed(data: bytes, rng: random.Random, pool: list[bytes]) -> bytes:
    """Bytes flipped, cut, doubled, and pieces of other inputs put in."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(len(out) + 1)
        match rng.randrange(5):
            case 0 if out:
                out[place % len(out)] = rng.randrange(256)
            case 1:
                del out[place : place + rng.randint(1, 30)]
            case 2:
                out[place:place] = out[place : place + rng.randint(1, 60)]
            case 3:
                other = rng.choice(pool)
                start = rng.randrange(len(other))
                out[place:place] = other[start : start + rng.randint(1, 60)]
            case _:
                out[place:place] = rng.choice(
                    [b"{", b"[", b'"', b"\n", b":", b",", b"1e999", b"null", b"\\u", b"&a *a"]
                )
    return bytes([rng.randrange(len(TURNS))]) + bytes(out[:5000])


def report(tool: str, started: float) -> dict[str, Any]:
    """The figures."""
    seconds = round(time.perf_counter() - started)
    return {"tool": tool, "inputs": sum(counts.values()), "by_reader": counts, "wrong": failures, "seconds": seconds}


def main(inputs: int, seconds: float) -> int:
    """Run and print the figures."""
    started, first = time.perf_counter(), seeds()
    for data in first:
        one(data)
    if atheris is None:
        rng = random.Random(0)
        while sum(counts.values()) < inputs and time.perf_counter() - started < seconds:
            one(changed(rng.choice(first)[1:], rng, first))
        print(json.dumps(report("random changes", started), indent=1))
        return 1 if failures else 0

    def target(data: bytes) -> None:
        one(data)
        if sum(counts.values()) >= inputs or time.perf_counter() - started > seconds:
            print(json.dumps(report("atheris", started), indent=1), flush=True)
            os._exit(1 if failures else 0)  # the fuzzer ends in no other way

    new = tempfile.mkdtemp(prefix="coldframe-fuzz-corpus-")  # the first folder gets what it finds
    atheris.Setup([sys.argv[0], "-max_len=5000", "-verbosity=0", new, str(CORPUS)], target)
    atheris.Fuzz()
    return 1


if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(main(int(words[0]) if words else 1_000_000, float(words[1]) if words[1:] else 1500.0))
