"""What a change of a model must not cost: knowledge asked without passages, ordinary text, and how copying goes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from coldframe.errors import DataError
from coldframe.methods.head_gains.proxy import ProxyTask
from reproduction.answers.systems import LMSystem
from reproduction.question_sets.read import read_rows

LETTERS = "ABCDEFGHIJ"


@dataclasses.dataclass(frozen=True)
class Choice:
    """A question with lettered options.

    Args:
        id: Unique in its set.
        text: The prompt, up to where the letter begins.
        options: How many there are, 2 to 10.
        right: Position of the right one.
    """

    id: str
    text: str
    options: int
    right: int


def read_choices(path: str | Path) -> list[Choice]:
    """MMLU-Pro questions (JSON lines with ``question_id``, ``question``, ``options``, ``answer``), without examples.

    The right option is the ``answer`` letter. Where it disagrees with ``answer_index`` the row is left out.

    Raises:
        DataError: If the file is missing, damaged or in another form.
    """
    choices = []
    for row in read_rows(path):
        try:
            options, right = list(row["options"]), LETTERS.index(row["answer"])
            agrees = right == row.get("answer_index", right)
            lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
            text = "\n".join([f"Question: {row['question'].strip()}", *lines, "Answer:"])
            if not right < len(options) <= len(LETTERS) or len(options) < 2:
                raise ValueError(f"{len(options)} options, answer {row['answer']}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path} holds something that is no choice: {error}", got=json.dumps(row)[:80]) from error
        if agrees:
            choices.append(Choice(f"mmlu-{row['question_id']}", text, len(options), right))
    return choices


@torch.no_grad()
def choose(system: LMSystem, choices: Sequence[Choice]) -> list[dict[str, Any]]:
    """Which letter each question gets, by the logits of the next token at the letters alone.

    Returns:
        By question ``id``, ``correct`` and ``loss``, minus the log-probability of the right letter among the letters.
    """
    from coldframe.frozen.ports import Prompt

    prompts = [Prompt("")] * len(choices)
    scores = system.lm.label_scores(prompts, list(LETTERS), system.put([choice.text for choice in choices]))
    rows = []
    for choice, row in zip(choices, scores, strict=True):
        among = row[: choice.options]
        loss = float(-among.log_softmax(-1)[choice.right])
        rows.append({"id": choice.id, "correct": int(among.argmax()) == choice.right, "loss": loss})
    return rows


@torch.no_grad()
def text_losses(system: LMSystem, texts: Mapping[str, str], longest: int = 512) -> list[dict[str, Any]]:
    """Summed loss of each text's tokens, the first left out, and their number.

    Args:
        system: The model.
        texts: By id.
        longest: Tokens after which a text is cut.
    """
    lm, rows = system.lm, []
    with lm.ports(system.put([""])):
        for name, text in texts.items():
            ids = torch.tensor([[*lm.bos, *lm.tokenize(text)[:longest]]], device=lm.device)
            if ids.shape[1] < 2:
                raise DataError(f"The text {name} has fewer than two tokens", got=repr(text))
            logits = lm.logits(ids)[0, :-1].float()
            loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
            rows.append({"id": name, "loss": float(loss), "tokens": ids.shape[1] - 1})
    return rows


@torch.no_grad()
def copy_curve(system: LMSystem, n: int = 50, sequences: int = 40, seed: int = 0) -> list[float]:
    """Loss of each token of the copy but its first, in random sequences that no gain was trained or chosen on.

        L_i = - mean over sequences of log p(x_{n+i} | x_{<n+i}),   i = 2 .. n,   x_{n+i} = x_i

    Args:
        system: The model.
        n: Tokens before they are repeated.
        sequences: How many.
        seed: Of the sequences.
    """
    task = ProxyTask(system.lm, seed=seed)
    total = torch.zeros(n - 1)
    with system.lm.ports(system.put([""])):
        for ids in task.sequences(sequences, n, 3).split(4):
            total += task.copy_losses(ids).sum(0).cpu()
    return [float(loss) for loss in total / sequences]
