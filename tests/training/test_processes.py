"""Two processes train what one with twice the accumulation trains; rows are split, and one of them writes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from coldframe.training.processes import Processes

pytestmark = pytest.mark.slow


def free_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


def started(words: list[str], count: int) -> list[subprocess.CompletedProcess[str]]:
    """Run the same command as ``count`` processes, with the variables that torchrun sets."""
    port, processes = free_port(), []
    for rank in range(count):
        together = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
        }
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
        processes.append(
            subprocess.Popen(
                [sys.executable, *words],
                env={**os.environ, **(together | place if count > 1 else {})},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    results = []
    for process in processes:
        out, err = process.communicate(timeout=240)
        results.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return results


def fitted(case: str, folder: Path, count: int, accumulation: int = 1, out: bool = True) -> list[Any]:
    """What each process says of its run."""
    folder.mkdir()
    artifact = str(folder / "artifact") if out else ""
    runs = started(["-m", "tests.training.together", case, str(folder), str(accumulation), artifact], count)
    assert [run.returncode for run in runs] == [0] * count, runs[-1].stderr[-3000:] + runs[0].stderr[-3000:]
    assert all("coldframe:" not in run.stderr for run in runs[1:])  # only the first shows progress
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(count)]


def same(first: Any, second: Any, tolerance: float = 1e-4) -> None:
    assert set(first["weights"]) == set(second["weights"])
    for name, values in first["weights"].items():
        ours, theirs = torch.tensor(values), torch.tensor(second["weights"][name])
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("case", ["lora", "mha-esp"])
def test_two_processes_train_as_one_with_twice_the_accumulation(case: str, tmp_path: Path) -> None:
    (alone,) = fitted(case, tmp_path / "one", 1, accumulation=2)
    together = fitted(case, tmp_path / "two", 2)
    same(together[0], together[1], 0.0)  # the same bits on both
    same(alone, together[0])
    half = [sorted(set(process["rows"])) for process in together]
    assert half[0] and half[1] and not set(half[0]) & set(half[1])  # no row is read twice
    assert sorted(half[0] + half[1]) == sorted(set(alone["rows"]))
    for ours, theirs in zip(alone["history"], together[1]["history"], strict=True):
        assert ours["step"] == theirs["step"]
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-3)
    (single,) = fitted(case, tmp_path / "single", 1)
    assert single["history"][-1]["step"] > alone["history"][-1]["step"]  # so the comparison could have failed


def test_rows_of_a_routing_table_learn_together(tmp_path: Path) -> None:
    """Their gradients are those of the rows that a step saw, on whichever process."""
    (alone,) = fitted("poly-prag", tmp_path / "one", 1, accumulation=2)
    together = fitted("poly-prag", tmp_path / "two", 2)
    same(alone, together[0], 1e-3)


def test_passages_are_claimed_and_each_is_trained_once(tmp_path: Path) -> None:
    (alone,) = fitted("prag", tmp_path / "one", 1)
    together = fitted("prag", tmp_path / "two", 2)
    same(alone, together[0])
    same(alone, together[1])
    assert len(together[0]["rows"]) + len(together[1]["rows"]) == len(alone["rows"])
    names = {path.name for path in (tmp_path / "two" / "artifact").iterdir()}
    assert "coldframe_config.json" in names and ".claims" not in names


def test_an_error_of_one_process_is_told_to_all(tmp_path: Path) -> None:
    code = (
        "import sys; from coldframe.training.processes import Processes; p = Processes.join(cpu=True)\n"
        "def work():\n"
        "    if p.rank == 1: raise ValueError('row 7 is broken')\n"
        "    return [p.rank]\n"
        "print(p.together(lambda: [p.rank])); p.together(work)"
    )
    first, second = started(["-c", code], 2)
    assert (first.stdout.strip(), second.stdout.strip()) == ("[0, 1]", "[0, 1]")
    assert first.returncode == second.returncode == 1
    assert "Process 1 stopped: ValueError: row 7 is broken" in first.stderr and "row 7" in second.stderr


def test_every_row_has_one_owner_and_alike_rows_have_several() -> None:
    halves = [set(Processes(rank, 2).own(range(1_000))) for rank in range(2)]
    assert not halves[0] & halves[1] and len(halves[0] | halves[1]) == 1_000
    assert 400 < len(halves[0]) < 600
    every_fourth = Processes(0, 2).own(range(0, 1_000, 4))
    assert 80 < len(every_fourth) < 170
    assert Processes().own([3, 1]) == [3, 1]
