"""The command line: thin. Each command parses its words, calls the library, prints."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence

from coldframe.errors import ColdframeError, nearest
from coldframe.escape import visible

COMMANDS = {
    "check": "what fit would make of a table, and what looks wrong with it; no model is loaded",
    "fit": "adapt a frozen model to a task and write the artifact",
    "compare": "methods, seeds and controls side by side, with intervals and a report",
    "reproduce": "published claims: ours beside theirs, with intervals and a verdict",
    "evaluate": "score an artifact on test rows",
    "diagnose": "is it the retrieval, or would a fixed prompt do?",
    "predict": "answer new inputs with an artifact",
    "serve": "answer plain text over HTTP with any number of artifacts, and show them on a page",
    "inspect": "what an artifact is, verified",
    "reweight": "weigh attention heads anew (PEAR) and write the checkpoint",
    "unfold": "take such weights out again",
    "export": "write what was learned for peft, vLLM, SGLang or llama.cpp",
    "encode": "turn a corpus of passages into weights (PRAG, Poly-PRAG, DyPRAG)",
    "ask": "answer with an encoded corpus, or measure how well it answers",
    "tasks": "list the built-in tasks",
    "methods": "list the methods and their settings",
    "cache": "what models and data take on the disk, and clear it",
    "demo": "all of it once, on molecules, in a few minutes",
}

USAGE = """\
usage: coldframe COMMAND [options]

Adapt a frozen language model with what you retrieve, and measure whether the retrieval did it.

{commands}

  coldframe COMMAND --help    what a command takes
  coldframe --version

examples:
  coldframe check mood.csv
  coldframe fit b3db --out runs/b3db
  coldframe fit mood.csv --text sentence --label mood --epochs 4 --out runs/mood
  coldframe evaluate runs/mood --json
  echo 'what a day' | coldframe predict runs/mood -
  coldframe serve --adapter mood=runs/mood
  coldframe compare mood.csv --out runs/compare
  coldframe reproduce --list
  coldframe diagnose runs/mood --fail-on prompt-tuning-like
  coldframe reweight smollm2 --out runs/smollm2-pear
  coldframe encode fact-corpus:40 --out runs/facts

Exit status: 0 done, 1 check found what looks wrong or reproduce could not run a claim, 2 something to mend (one line
says what), 3 the verdict of diagnose is among --fail-on, 130 interrupted.
COLDFRAME_DEBUG=1 shows where an error came from; COLDFRAME_CACHE is the folder for models and data."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        # Texts and labels are of any language, whatever the terminal was set to.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    if not words or words[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        print(USAGE.format(commands="\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())))
        return 0
    if words[0] == "--version":
        from coldframe import __version__

        print(f"coldframe {__version__}")
        return 0
    from coldframe import progress  # loads a library that help needs not

    progress.to_stderr()
    if not progress.first_process():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - to the end of the process
    try:
        if words[0] not in COMMANDS:
            raise ColdframeError(f"There is no command {words[0]!r}", fix=nearest(words[0], COMMANDS))
        status: int | None = importlib.import_module(f"coldframe.cli.{words[0]}").run(words[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(
            "coldframe: interrupted. The same command goes on where fit, compare, reproduce, diagnose, reweight and "
            "encode stopped (give --out).",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ColdframeError, OSError) as error:
        if os.environ.get("COLDFRAME_DEBUG"):
            raise
        print("coldframe: error:", visible(" ".join(str(error).split())), file=sys.stderr)
        return 2
    return status or 0
