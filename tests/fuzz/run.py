"""Fuzz all readers: with atheris, which follows the branches, where it is installed; else by random changes.

Usage: python -m tests.fuzz.run [INPUTS [SECONDS [SEED [READER ...]]]]

Each reader has a process of its own, one after the other, and its share of the inputs and of the time. What makes a
reader raise anything but our own errors, take longer than a few seconds of the processor for an input, or end its
process, is written to ``fuzz-failures/`` and ends the run with status 1.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    import atheris
except ImportError:
    atheris = None

if atheris is not None:
    with atheris.instrument_imports(include=["coldframe"], enable_loader_override=False):
        from tests.fuzz.readers import READERS, read
else:
    from tests.fuzz.readers import READERS, read

from tests.fuzz.folders import HOME

CORPUS = Path(__file__).parent / "corpus"
FAILURES = Path("fuzz-failures")
SLOW = 5.0  # seconds of the processor
LONGEST = 2000  # bytes of a new input
# Shares of the inputs: reading a sheet or a whole artifact takes a hundred times as long as reading a file of tensors.
SLOWEST, SLOWER = ("excel", "lora"), ("corpus", "endpoint", "gains", "packed", "recipe", "settings", "table")


class Tally:
    """What one reader was given, and what went wrong."""

    def __init__(self, name: str, most: int, seconds: float) -> None:
        self.name, self.most, self.end = name, most, time.monotonic() + seconds
        self.inputs = 0
        self.wrong: list[str] = []

    @property
    def done(self) -> bool:
        """Whether its inputs or its time are used up."""
        return self.inputs >= self.most or time.monotonic() > self.end

    def read(self, data: bytes) -> None:
        """Read one input and count it."""
        self.inputs += 1
        started = time.process_time()
        LAST.write_bytes(data)
        try:
            read(self.name, data)
            problem = "" if time.process_time() - started < SLOW else "slow"
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        if problem:
            keep(self.name, data)
            self.wrong.append(f"{self.name}: {problem[:200]}")
            print(f"fuzz: {self.wrong[-1]}", file=sys.stderr, flush=True)


LAST = HOME / "last-input"


def keep(name: str, data: bytes) -> None:
    """Keep an input that something is wrong with."""
    FAILURES.mkdir(exist_ok=True)
    (FAILURES / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}").write_bytes(data)


def changed(data: bytes, rng: random.Random, pool: Sequence[bytes]) -> bytes:
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
                start = rng.randrange(len(other) + 1)
                out[place:place] = other[start : start + rng.randint(1, 60)]
            case _:
                out[place:place] = rng.choice(
                    [b"{", b"[", b'"', b"\n", b":", b",", b"1e999", b"null", b"\\u", b"&a *a"]
                )
    return bytes(out[:LONGEST])


def fuzz(tally: Tally, seed: int, finish: Any) -> None:
    """Give a reader all kept inputs, then new ones until it has had enough; ``finish`` ends the process."""
    corpus = [path.read_bytes() for path in sorted(CORPUS.iterdir())]
    for data in corpus:
        tally.read(data)
    if atheris is None:
        rng = random.Random(seed)
        while not tally.done:
            tally.read(changed(rng.choice(corpus), rng, corpus))
        finish()

    def target(data: bytes) -> None:
        tally.read(data)
        if tally.done:
            finish()  # the fuzzer ends in no other way

    new = tempfile.mkdtemp(dir=HOME)  # the first folder gets what it finds
    flags = [f"-seed={seed + 1}", f"-max_len={LONGEST}", "-verbosity=0", "-timeout=120", f"-artifact_prefix={new}/"]
    atheris.Setup([sys.argv[0], *flags, new, str(CORPUS)], target)
    atheris.Fuzz()


def apart(name: str, inputs: int, seconds: float, seed: int) -> Tally:
    """A reader's turn, in a process of its own."""
    tally = Tally(name, inputs, seconds)
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:

        def finish() -> None:
            os.write(writer, json.dumps([tally.inputs, tally.wrong[:20]]).encode())
            os._exit(0)

        fuzz(tally, seed, finish)
        os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if text:
        tally.inputs, tally.wrong = json.loads(text)
    else:
        keep(name, LAST.read_bytes())
        tally.wrong.append(f"{name}: its process ended with {status}")
    return tally


def processor_seconds() -> float:
    """What the processes of the readers used: on a busy machine the clock tells little."""
    times = os.times()
    return times.children_user + times.children_system


def main(inputs: int, seconds: float, seed: int, names: Sequence[str]) -> int:
    """Run and print the figures."""
    started = time.monotonic()
    logging.disable()  # readers warn of what they leave out
    weights = {name: 1 if name in SLOWEST else 2 if name in SLOWER else 6 for name in names}
    tallies = []
    for place, name in enumerate(names):
        # An equal share of what is left: most readers are done before it ends.
        share = (seconds - (time.monotonic() - started)) / (len(names) - place)
        tallies.append(apart(name, inputs * weights[name] // sum(weights.values()) + 1, share, seed))
    shutil.rmtree(HOME, ignore_errors=True)
    wrong = [problem for tally in tallies for problem in tally.wrong]
    report = {
        "tool": "random changes" if atheris is None else "atheris",
        "seed": seed,
        "inputs": sum(tally.inputs for tally in tallies),
        "by_reader": {tally.name: tally.inputs for tally in tallies},
        "wrong": wrong,
        "seconds": round(time.monotonic() - started),
        "processor_seconds": round(processor_seconds()),
    }
    print(json.dumps(report, indent=1))
    return 1 if wrong else 0


if __name__ == "__main__":
    arguments = dict(enumerate(sys.argv[1:]))
    sys.exit(
        main(
            int(arguments.get(0, 1_000_000)),
            float(arguments.get(1, 1500.0)),
            int(arguments.get(2, 0)),
            sys.argv[4:] or [*READERS],
        )
    )
