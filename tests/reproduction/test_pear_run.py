"""``python -m reproduction.pear`` from end to end on a tiny model, and what it says when something is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reproduction.answers.systems import LMSystem
from reproduction.reweighted.data import Reweighted
from tests.reproduction.support import tiny_folder, write_data

from coldframe.config import read_mapping
from coldframe.errors import ColdframeError, ConfigError, DataError, TrainingError
from reproduction import pear

QUICK = ["bos=never", "steps=10", "evaluate_every=2", "repetitions=[[12, 8], [10, 10]]", "length=20", "batch_size=32"]
QUICK += ["held_out=60", "learning_rate=0.01"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def words(model: str, data: Path, cache: Path, tmp_path: Path) -> Callable[..., list[str]]:
    def build(*more: Any) -> list[str]:
        usual = [model, "--data", data, "--heads", 3, "--set", *QUICK, "--questions", 3, "--out", tmp_path / "out"]
        return [str(word) for word in (*usual, "--max-new-tokens", 4, "--dtype", "float32", *more)]

    return build


def upper(lm: Any) -> Callable[[list[str], int], list[str]]:
    return lambda prompts, n: [f"{prompt[:n].upper()}\nrest" for prompt in prompts]


@pytest.mark.slow
def test_everything_once_and_again_for_nothing(
    words: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = ("--sets", "mdqa3", "2wiki", "hotpot", "popqa")
    systems = ("--systems", "base", "pear", "random", "lowest", "all", "zero", "ms-poe", f"rival={__name__}:upper")
    more = ("--seeds", 0, 1, "--mmlu", 4, "--texts", 5)
    done = pear.run(words(*sets, *systems, *more))
    assert {qa.name: (qa.questions, qa.rows) for qa in done.sets} == {
        "mdqa3": (3, 9), "2wiki": (3, 3), "hotpot": (3, 3), "popqa": (3, 3),
    }  # fmt: skip
    assert set(done.systems) >= {"base", "pear", "zero", "rival"} and done.systems["pear"] == [0, 1]
    cell = done.cell("mdqa3", "pear", "loss", 2)
    assert cell is not None and cell.gap is not None and cell.level.seeds == 2 and cell.level.n == 3
    assert (
        done.cell("mdqa3", "ms-poe", "loss") is not None
        and done.cell("mdqa3", "rival", "loss") is None
        and done.cell("mdqa3", "rival", "contains") is not None
    )
    assert (
        done.mean_gap("pear", "base", "contains") is not None and done.mean_gap("pear", "rival", "contains") is not None
    )
    assert {(c.set, c.metric) for c in done.retained} == {
        ("MMLU-Pro", "accuracy"), ("MMLU-Pro", "letter_loss"), ("ordinary text", "token_loss"),
    }  # fmt: skip
    assert len(done.curves["base"][0]) == 49 and done.gains is not None and len(done.gains.heads) == 3
    out = tmp_path / "out"
    assert Reweighted.from_dict(read_mapping(out / "results.json")) == done
    table = (out / "results.md").read_text()
    assert "### mdqa3" in table and "minus base" in table and "by place" in table
    page = (out / "report.html").read_text()
    assert all(text in page for text in ("Is it these heads, or any?", "Which heads", "What it must keep", "rival"))
    files = {path.name: path.read_bytes() for path in (out / "answers").iterdir()}

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("asked again")

    monkeypatch.setattr(LMSystem, "answer", never)
    again = pear.run(words(*sets, *systems, *more))
    assert again.cells == done.cells and again.overall == done.overall and again.retained == done.retained
    assert {path.name: path.read_bytes() for path in (out / "answers").iterdir()} == files


@pytest.mark.slow
def test_losses_alone_and_a_folder_and_a_file_of_questions(
    words: Callable[..., list[str]], model: str, data: Path, tmp_path: Path
) -> None:
    from reproduction.multi_document_qa import main

    main([str(data), str(tmp_path / "mine.jsonl"), "--documents", "3", "--gold", "1"])
    done = pear.run(words("--max-new-tokens", 0, "--sets", tmp_path / "mine.jsonl", "--systems", "base", model))
    assert {cell.metric for cell in done.cells} == {"chosen", "choice_loss", "loss"} and [
        qa.name for qa in done.sets
    ] == ["mine"]
    same = done.mean_gap(Path(model).name, "base", "loss")
    assert same is not None and (same.interval.low, same.interval.value, same.interval.high) == (0, 0, 0)
    assert done.gains is None and done.sets[0].places == ()


@pytest.mark.slow
def test_gains_by_hand(words: Callable[..., list[str]]) -> None:
    usual = ("--max-new-tokens", 0, "--sets", "popqa", "--systems", "base")
    done = pear.run(words(*usual, "none=0.0:1.0", "some=1.2:0.25,0.3:2"))
    none, some = (done.mean_gap(name, "base", "loss") for name in ("none", "some"))
    assert none is not None and none.interval.value == 0 and some is not None and some.interval.value != 0
    assert float(pear.by_hand(loaded(words), "0.1:1e-1").min()) == pytest.approx(0.1)
    with pytest.raises(ConfigError, match="no such head"):
        pear.run(words(*usual, "some=99.0:0.5"))


def loaded(words: Callable[..., list[str]]) -> Any:
    from coldframe.frozen.model import load_lm

    return load_lm(words()[0], dtype="float32")


def test_every_word_is_understood_before_the_first_training(
    words: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pear, "reweight", lambda *_: pytest.fail("trained"))
    for wrong in ("nonsense", "some=99.0:0.5", "x=os:nothing"):
        with pytest.raises(ConfigError):
            pear.run(words("--sets", "popqa", "--systems", "base", "pear", wrong))
    with pytest.raises(DataError, match="Cannot read /nowhere"):
        systems = ("--sets", "popqa", "--systems", "base", "pear")
        pear.run(words(*systems, "--texts", 2, "--text-file", "/nowhere"))


@pytest.mark.slow
def test_a_long_prompt_is_cut_and_that_is_said(words: Callable[..., list[str]]) -> None:
    done = pear.run(words("--max-new-tokens", 0, "--systems", "base", "--sets", "mdqa5", "--max-tokens", 330))
    assert any(re.match(r"mdqa5: \d+ of 9 prompts had passages cut", note) for note in done.notes)
    assert done.sets[0].cut > 0


@pytest.mark.slow
def test_a_control_that_cannot_be_trained_is_a_note(
    words: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pear.reweight

    def fails(lm: Any, config: Any) -> Any:
        if config.choose == "all":
            raise TrainingError("No step lowered the loss")
        return real(lm, config)

    monkeypatch.setattr(pear, "reweight", fails)
    done = pear.run(words("--max-new-tokens", 0, "--sets", "popqa", "--systems", "base", "pear", "all"))
    assert list(done.systems) == ["base", "pear"] and "all, seed 0, could not be trained" in done.notes[0]


@pytest.mark.parametrize(
    ("more", "error", "says"),
    [
        (["--sets", "nonsense"], ConfigError, "no set 'nonsense'"),
        (["--systems", "nonsense"], ConfigError, "no system 'nonsense'"),
        (["--systems", "x=nowhere:f"], ConfigError, "Cannot load the system"),
        (["--systems", "x=os:nothing"], ConfigError, "Cannot load the system"),
        (["--sets", "mdqa3", "--gold", "7"], ConfigError, "place of the gold"),
        (["--max-tokens", "150"], DataError, "too long"),
        (["--chat"], ConfigError, "chat template"),
        (["--set", "nonsense=1", "--systems", "pear"], ConfigError, "nonsense"),
        (["--data", "/nowhere"], DataError, "folder"),
        (["--text-file", "/nowhere", "--texts", "2", "--sets", "popqa"], DataError, "Cannot read"),
        (["--questions", "0"], ConfigError, "questions"),
        (["--wrong", "-1"], ConfigError, "--wrong cannot be negative"),
        (["--mmlu", "-1"], ConfigError, "--mmlu cannot be negative"),
        (["--set", "seed=5", "--systems", "pear"], ConfigError, "--set seed is said with --seeds"),
        (["--sets", "popqa", "elsewhere/popqa.jsonl"], ConfigError, "Two sets have the same name"),
        (["--systems", "base", "a=0.0:1", "a=0.1:1"], ConfigError, "Two systems have the same name"),
        (["--systems", "pear=0.0:1"], ConfigError, "pear is the name of another system"),
        (["--systems", "a=0.0:half"], ConfigError, "That is no gain"),
    ],
)
def test_bad_words(words: Callable[..., list[str]], more: list[str], error: type[ColdframeError], says: str) -> None:
    with pytest.raises(error, match=says):
        pear.run(words("--sets", "mdqa3", "--systems", "base", *more))


def test_a_chat_template_wraps_the_prompt(words: Callable[..., list[str]], model: str, tmp_path: Path) -> None:
    from coldframe.frozen.model import load_lm

    lm = load_lm(model)
    lm.tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[answer]"
    )
    options = pear.arguments(words("--chat"))
    row = pear.questions_of("popqa", options)[0][0].as_row()
    prompt = pear.prompt_of(options, lm)(*row)
    assert prompt.text.startswith("[user]") and prompt.text.endswith("?[answer]Answer:")
    assert json.dumps(prompt.text).count("<bos>") == 0  # the model puts it there
    lm.bos = ()
    assert pear.prompt_of(options, lm)(*row).text.startswith("<bos>[user]")  # nobody puts it there


def test_questions_may_be_left_out_that_something_was_chosen_on(words: Callable[..., list[str]]) -> None:
    def ids(*more: Any) -> list[str]:
        return [question.id for question in pear.questions_of("popqa", pear.arguments(words(*more)))[0]]

    first, later = ids("--questions", "1"), ids("--questions", "2", "--skip", "1")
    assert len(first) == 1 and len(later) == 2 and ids("--questions", "3") == [*first, *later]
    groups = [
        question.group
        for question in pear.questions_of("mdqa3", pear.arguments(words("--questions", "2", "--skip", "1")))[0]
    ]
    both = [question.group for question in pear.questions_of("mdqa3", pear.arguments(words("--questions", "3")))[0]]
    assert len(groups) == 6 and groups == both[3:]
