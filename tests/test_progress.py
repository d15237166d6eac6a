"""Progress where there is no terminal: lines often enough, with what is done, how fast and how long still."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from itertools import pairwise

import pytest
from tests.contract.cases import example, lm_of, task

import coldframe as cf
from coldframe import progress
from coldframe.diagnosis.soft_token_subject import subject_of
from coldframe.progress import Bar, say, working


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "_now", clock)
    # The thread that beats is real, and reads the clock that is not: what it would say, the steps say.
    monkeypatch.setattr(Bar, "_watch", lambda self: None)
    return clock


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    collected: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            collected.append(record.getMessage())

    logger = logging.getLogger("coldframe")
    monkeypatch.setattr(logger, "handlers", [Collect()])
    monkeypatch.setattr(logger, "level", logging.INFO)
    return collected


@pytest.mark.parametrize("seconds", [0.5, 7.0, 29.0])
def test_a_line_at_least_every_30_seconds(clock: Clock, lines: list[str], seconds: float) -> None:
    times = [clock.now]
    with Bar(400, "fit") as bar:
        for _ in range(400):
            clock.now += seconds
            before = len(lines)
            bar.advance(1)
            times += [clock.now] if any(" of 400, " in line for line in lines[before:]) else []
    gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    assert max(gaps) <= 30 and clock.now - times[-1] <= 30
    assert len(gaps) > 3 and (seconds > 25 or min(gaps) >= 20), "often enough, and no more often"


def test_what_a_line_says(clock: Clock, lines: list[str]) -> None:
    with Bar(800, "train mha-esp") as bar:
        for _ in range(3):
            clock.now += 10
            bar.advance(100, loss=0.5)
    assert lines == [
        "train mha-esp: about 80 s for 800 (measured on the first 300)",
        "train mha-esp: 300 of 800, 10/s, about 50 s left, loss 0.500",
    ]


def test_a_single_long_step_is_not_silent(clock: Clock, lines: list[str]) -> None:
    with Bar(4, "find heads") as bar:
        clock.now += 31
        bar.beat()
        bar.beat()
        bar.advance(1)
        clock.now += 200
        bar.beat()
    assert lines == ["find heads: 0 of 4, 31 s so far", "find heads: 1 of 4, 4 min each, about 12 min left"]


def test_work_that_cannot_be_counted(clock: Clock, lines: list[str]) -> None:
    with working("converting smollm2") as bar:
        clock.now += 40
        bar.beat()
    assert lines == ["converting smollm2: still at it, 40 s"]


def test_what_was_done_before_tells_nothing_of_the_rate(clock: Clock, lines: list[str]) -> None:
    with Bar(100, "encode") as bar:
        bar.skip(90)
        for _ in range(3):
            clock.now += 60
            bar.advance(1)
    assert lines[-1] == "encode: 93 of 100, 60 s each, about 7 min left"


def test_short_work_is_not_announced_and_quiet_says_nothing(clock: Clock, lines: list[str]) -> None:
    with Bar(10, "fit") as bar:
        for _ in range(10):
            clock.now += 1
            bar.advance(1)
    with Bar(1000, "fit", quiet=True) as bar:
        for _ in range(10):
            clock.now += 100
            bar.advance(1)
            bar.note({"loss": 1.0})
    assert lines == []


def test_the_thread_beats(monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with Bar(4, "slow") as bar:
        for _ in range(200):
            if lines:
                break
            bar._end.wait(0.05)
    assert lines and lines[0].startswith("slow: 0 of 4")


def test_a_user_s_handler_gets_the_lines_and_no_one_else(lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    say("hello")
    assert lines == ["hello"] and capsys.readouterr().err == ""


def test_without_a_handler_lines_go_to_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("coldframe")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", False)  # the test runner's own handlers are no one's
    say("hello")
    assert capsys.readouterr().err == "coldframe: hello\n"


def test_the_user_s_level_holds(lines: list[str]) -> None:
    logger = logging.getLogger("coldframe")
    logger.setLevel(logging.WARNING)
    say("hello")
    logger.setLevel(logging.INFO)
    assert lines == []
    say("hello")
    assert lines == ["hello"]


def test_the_innermost_work_speaks_and_says_what_it_is_part_of(clock: Clock, lines: list[str]) -> None:
    with Bar(7, "compare") as outer:
        for _ in range(2):
            with Bar(100, "train mha-esp") as inner:
                for _ in range(100):
                    clock.now += 1.0
                    inner.advance(1)
                    outer.beat()
            outer.advance(1)
        clock.now += 26
        outer.beat()
    inside = [line for line in lines if "train mha-esp" in line]
    assert len(inside) >= 6 and inside[0].startswith("compare 0 of 7 · train mha-esp: ")
    assert any(line.startswith("compare 1 of 7 · train mha-esp: ") for line in inside)
    assert lines[-1].startswith("compare: 2 of 7") and not progress._OPEN


def test_the_notes_of_a_part_are_left_to_the_whole(clock: Clock, lines: list[str]) -> None:
    with working("mha-esp, seed 0"), Bar(10, "train mha-esp") as inner:
        inner.note({"validation_loss": 0.5})
    with Bar(10, "train mha-esp") as alone:
        alone.note({"validation_loss": 0.5})
    assert lines == ["train mha-esp: validation loss 0.500"]


class Slow:
    """An encoder that takes four seconds for a text."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def encode(self, texts: list[str]) -> list[list[float]]:
        for _ in texts:
            self.clock.now += 4.0
            for bar in list(progress._OPEN):  # what the thread of each does every second
                bar.beat()
        return [[len(text), text.count("e"), 1.0] for text in texts]


def test_texts_that_are_encoded_before_training_tell_how_far_it_is(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of fit, evaluate and diagnose, for the retriever's encoder and the method's; nothing where all is to be quiet."""
    logger = logging.getLogger("coldframe")
    monkeypatch.setattr(logger, "level", logging.INFO)
    encoder = Slow(clock)
    method = cf.MHAESP(encoder=encoder, adapter=4, heads=1, k=2)
    retrieval = cf.RetrievalConfig(encoder=encoder, similarity="cosine")

    def spoken(work: Callable[[], object]) -> list[str]:
        """Lines of a piece of work, none of them later than 30 seconds after the one before."""
        heard: list[tuple[float, str]] = [(clock.now, "start")]

        class Listen(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                heard.append((clock.now, record.getMessage()))

        monkeypatch.setattr(logger, "handlers", [Listen()])
        work()
        times = [time for time, _ in heard] + [clock.now]
        assert max(later - earlier for earlier, later in pairwise(times)) <= 30
        return [line for _, line in heard[1:]]

    pipeline: list[cf.Pipeline] = []

    def fit() -> None:
        pipeline.append(cf.fit(method, lm_of("llama"), task(), retrieval=retrieval, epochs=1, batch_size=4))

    assert any("encode texts: " in line and " of " in line and "left" in line for line in spoken(fit))
    new = [dataclasses.replace(example(i, "AB"[i % 2]), text=f"new {'e' * i}") for i in range(24)]
    assert any("encode texts" in line for line in spoken(lambda: pipeline[0].predictions(new, quiet=False)))
    others = [dataclasses.replace(query, text=f"{query.text} again") for query in new]
    assert any("encode texts" in line for line in spoken(lambda: subject_of(pipeline[0], others, quiet=False)))
    third = [dataclasses.replace(query, text=f"{query.text} still") for query in new]
    with pytest.raises(AssertionError):  # 96 seconds without a line, as asked for
        spoken(lambda: pipeline[0].predictions(third))
