"""Commands survive being killed, refused a write, and run twice at once: a sample of what ``make faults`` tries."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from tests.conftest import ROOT
from tests.faults.kills import needs_fork


@pytest.mark.slow
@needs_fork
@pytest.mark.parametrize("command", ["fit", "convert"])
def test_after_a_fault_the_same_command_gives_the_same(command: str) -> None:
    # A process of its own: one that has trained cannot be forked and train again.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    words = [sys.executable, "-m", "tests.faults.everywhere", "3", command]
    ran = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert ran.stdout.startswith("{"), ran.stderr[-2000:]
    figures = json.loads(ran.stdout)[command]
    assert figures["wrong"] == [] and figures["kills"] == 3 and figures["refusals"] >= 4 and figures["changes"] > 20
