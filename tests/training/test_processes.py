"""Two processes train what one with twice the accumulation trains; rows are split, and one of them writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.cases import lm_of

from coldframe.errors import ConfigError
from coldframe.frozen.sharding import shard
from coldframe.training.processes import Processes


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[int]]]:
    """The folder of all runs, and how each of their processes ended."""
    home = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-m", "tests.training.together", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    return home, json.loads(done.stdout)


def results(runs: tuple[Path, dict[str, list[int]]], case: str, run: str) -> list[Any]:
    """What each process of a run says of it."""
    home, statuses = runs
    folder, ends = home / case / run, statuses[f"{case}/{run}"]
    assert not any(ends), "".join(path.read_text() for path in folder.glob("*.err"))
    said = [(folder / f"{rank}.err").read_text() for rank in range(len(ends))]
    assert all("coldframe:" not in text for text in said[1:])  # only the first shows progress
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(len(ends))]


def same(first: Any, second: Any, tolerance: float = 1e-4) -> None:
    assert set(first["weights"]) == set(second["weights"])
    for name, values in first["weights"].items():
        ours, theirs = torch.tensor(values), torch.tensor(second["weights"][name])
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["lora", "mha-esp", "poly-prag"])
def test_two_processes_train_as_one_with_twice_the_accumulation(case: str, runs: Any) -> None:
    """Of Poly-PRAG's table the rows that a step saw learn, on whichever process."""
    (alone,), (single,), together = (
        results(runs, case, "alone"),
        results(runs, case, "single"),
        results(runs, case, "two"),
    )
    same(together[0], together[1], 0.0)  # the same bits on both
    same(alone, together[0], 1e-3 if case == "poly-prag" else 1e-4)
    half = [set(process["rows"]) for process in together]
    assert half[0] and half[1] and not half[0] & half[1]  # no row is read twice
    assert half[0] | half[1] == set(alone["rows"])
    for ours, theirs in zip(alone["history"], together[1]["history"], strict=True):
        assert ours["step"] == theirs["step"]
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-3)
    assert single["history"][-1]["step"] > alone["history"][-1]["step"]  # so the comparison could have failed


@pytest.mark.slow
@pytest.mark.parametrize("case", ["lora", "mha-esp", "poly-prag"])
def test_two_processes_that_share_a_model_train_as_one_that_has_it(case: str, runs: Any) -> None:
    """Each holds half of every layer, and all read the same rows."""
    (single,), together = results(runs, case, "single"), results(runs, case, "sharded")
    for process in together:
        same(single, process, 1e-6)
        assert process["rows"] == single["rows"]
        assert 0.45 * single["held"] < process["held"] < 0.55 * single["held"]
    assert (runs[0] / case / "sharded" / "artifact" / "coldframe_config.json").is_file()


@pytest.mark.slow
def test_what_trains_passages_apart_takes_no_shared_model(runs: Any) -> None:
    home, statuses = runs
    assert all(statuses["prag/sharded"])
    assert "Leave --shard out" in (home / "prag" / "sharded" / "0.err").read_text()


def test_a_model_is_not_spread_over_one_process() -> None:
    with pytest.raises(ConfigError, match="torchrun"):
        shard(lm_of("llama"))


@pytest.mark.slow
def test_passages_are_claimed_and_each_is_trained_once(runs: Any) -> None:
    (single,), together = results(runs, "prag", "single"), results(runs, "prag", "two")
    for process in together:
        same(single, process)
    assert len(together[0]["rows"]) + len(together[1]["rows"]) == len(single["rows"])
    names = {path.name for path in (runs[0] / "prag" / "two" / "artifact").iterdir()}
    assert "coldframe_config.json" in names and ".claims" not in names


@pytest.mark.slow
def test_an_error_of_one_process_is_told_to_all(runs: Any) -> None:
    assert runs[1]["broken"] == [1, 1]
    first, second = ((runs[0] / "broken" / f"{rank}.err").read_text() for rank in range(2))
    assert "Process 1 stopped: ValueError: row 7 is broken" in first
    assert "ValueError: row 7 is broken" in second and "Process 1 stopped" not in second


def test_every_row_has_one_owner_and_alike_rows_have_several() -> None:
    halves = [set(Processes(rank, 2).own(range(1_000))) for rank in range(2)]
    assert not halves[0] & halves[1] and len(halves[0] | halves[1]) == 1_000
    assert 400 < len(halves[0]) < 600
    every_fourth = Processes(0, 2).own(range(0, 1_000, 4))
    assert 80 < len(every_fourth) < 170
    assert Processes().own([3, 1]) == [3, 1]
