"""A training epoch and an evaluation pass, beside peft's Prompt Tuning in the transformers Trainer.

    python -m benchmarks.training

Ways: the peer, then Prompt Tuning and MHA-ESP with prefix placement, with suffix placement from nothing (the first
epoch: neighbours (after the first round read from the disk, which saves milliseconds), encoding, the states of all
texts), and with suffix placement once the states are kept.

The peer as its users run it: ``PromptTuningConfig`` and ``Trainer`` at their defaults, batches in random order padded
to their longest row, labels masked over the prompt, transformers' own attention. Same model, rows, tokens of a row,
number of soft tokens, batch size and dtype.
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import transformers

from benchmarks.common import TOKENS, Way, arguments, first, goal, interleaved, loaded, neighbours, rates, say, tell
from coldframe.frozen.model import FrozenLM
from coldframe.inference.run import predict
from coldframe.methods.base import Method, prompts
from coldframe.methods.registry import method_class
from coldframe.methods.training_set import Problem, RetrievedRows
from coldframe.pipeline.setup import class_weights, context_of
from coldframe.retrieval.store import Retrieved, Store
from coldframe.tasks.task import Example, Task
from coldframe.training.config import TrainingConfig
from coldframe.training.trainer import Trainer

PEER = "peft + Trainer"
METHODS = ("prompt-tuning", "mha-esp")


@dataclasses.dataclass
class Bench:
    """All that the ways have in common."""

    lm: FrozenLM
    task: Task
    batch: int

    def method(self, name: str, placement: str) -> Method:
        """Untrained, with the usual number of soft tokens."""
        size = {"tokens": TOKENS} if name == "prompt-tuning" else {"heads": TOKENS}
        method = method_class(name)(placement=placement, **size)
        return method.setup(context_of(method, self.lm, self.task.schema))

    def retrieved(self, method: Method, rows: tuple[Example, ...]) -> Retrieved:
        if method.uses_retrieval:
            return neighbours(self.task, rows, method.config.k)
        return Retrieved.nothing(Store.of(self.task.train), len(rows))

    def epoch(self, name: str, placement: str, cached: bool = False) -> Way:
        """An epoch of ours; ``cached`` finds neighbours and text states ready."""

        def prepare() -> tuple[Method, Retrieved | None]:
            method = self.method(name, placement)
            if not cached:
                self.lm.states.clear()
                return method, None
            retrieved = self.retrieved(method, self.task.train)
            method.condition([e.text for e in self.task.train], retrieved)  # the encoder remembers what it has encoded
            self.lm.text_states(self.lm.rows(prompts(self.task.schema, [e.text for e in self.task.train])))
            return method, retrieved

        def run(prepared: tuple[Method, Retrieved | None]) -> None:
            method, retrieved = prepared
            retrieved = retrieved or self.retrieved(method, self.task.train)
            config = TrainingConfig(epochs=1, batch_size=self.batch)
            rows = self.task.train
            lengths = [len(self.lm.tokenize(example.text)) for example in rows]
            items = RetrievedRows(
                rows, lengths, class_weights(self.task.schema, rows, rows, config), retrieved=retrieved
            )
            Trainer(Problem(method, items), self.lm, config, quiet=True).train()

        return Way(run, prepare)

    def evaluation(self, name: str, placement: str, cached: bool = False) -> Way:
        """A pass of ours over the test rows, neighbours and encoding included."""

        def prepare() -> Method:
            if not cached:
                self.lm.states.clear()
            else:
                self.lm.text_states(self.lm.rows(prompts(self.task.schema, [e.text for e in self.task.test])))
            return self.method(name, placement)

        def run(method: Method) -> None:
            retrieved = self.retrieved(method, self.task.test)
            predict(method, self.lm, self.task.schema, self.task.test, retrieved, batch_size=self.batch)

        return Way(run, prepare)


def measure(lm: FrozenLM, task: Task, batches: list[int], rounds: int) -> dict[str, Any]:
    """Rates of all ways at each batch size; goals hold at each of them."""
    result: dict[str, Any] = {"train_rows": len(task.train), "test_rows": len(task.test), "rounds": rounds}
    goals = []
    for batch in batches:
        bench, peer = Bench(lm, task, batch), Peer(lm, task, batch)
        for kind, rows in (("epoch", len(task.train)), ("evaluation", len(task.test))):
            say(f"{kind}, batches of {batch}")
            make = getattr(bench, kind)
            ways = {PEER: getattr(peer, kind)()}
            for name in METHODS:
                ways |= {
                    f"{name}, prefix": make(name, "prefix"),
                    f"{name}, suffix, from nothing": make(name, "suffix"),
                    f"{name}, suffix, states kept": make(name, "suffix", cached=True),
                }
            lines = rates(interleaved(ways, rounds), rows, PEER)
            result[f"{kind}, batch {batch}"] = lines
            if kind == "epoch":
                reach = {"prefix": 2.5, "from nothing": 5.0, "states kept": 10.0}
                goals += [
                    goal(f"training epoch against {PEER}, batch {batch}: {line['way']}", line["ratio"], reach[last])
                    for line in lines
                    if (last := line["way"].rpartition(", ")[2]) in reach
                ]
    return {**result, "goals": goals}


class Peer:
    """peft's Prompt Tuning in the transformers Trainer."""

    def __init__(self, lm: FrozenLM, task: Task, batch: int) -> None:
        self.lm, self.task, self.batch = lm, task, batch
        self.model = copy.deepcopy(lm.model)  # peft writes into what it wraps
        if self.model._can_set_attn_implementation():
            self.model.set_attn_implementation("sdpa")
        if lm.tokenizer.pad_token_id is None:
            lm.tokenizer.pad_token = lm.tokenizer.eos_token

    def epoch(self) -> Way:
        return Way(lambda trainer: trainer.train(), self._trainer)

    def evaluation(self) -> Way:
        return Way(lambda trainer: trainer.evaluate(), self._trainer)

    def _rows(self, examples: tuple[Example, ...]) -> list[dict[str, list[int]]]:
        schema = self.task.schema
        rows = self.lm.rows(prompts(schema, [e.text for e in examples]))
        answers = [self.lm.tokenize(schema.template.answer(schema.word(e.target))) for e in examples]
        return [
            {
                "input_ids": [*row.shared, *row.own, *answer],
                "attention_mask": [1] * (len(row) + len(answer)),
                "labels": [-100] * len(row) + list(answer),
            }
            for row, answer in zip(rows, answers, strict=True)
        ]

    def _trainer(self) -> transformers.Trainer:
        from peft import PromptTuningConfig, get_peft_model

        with quiet():
            wrapped = get_peft_model(self.model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=TOKENS))
            self.model = wrapped.get_base_model()
            settings = transformers.TrainingArguments(
                output_dir=tempfile.gettempdir(),
                num_train_epochs=1,
                per_device_train_batch_size=self.batch,
                per_device_eval_batch_size=self.batch,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=self.lm.device.type == "cpu",
            )
            return QuietTrainer(
                model=wrapped,
                args=settings,
                train_dataset=self._rows(self.task.train),
                eval_dataset=self._rows(self.task.test),
                data_collator=transformers.DataCollatorForSeq2Seq(self.lm.tokenizer),
            )


class QuietTrainer(transformers.Trainer):
    """The Trainer, without the lines it prints: standard output is for the result."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        pass


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def main() -> None:
    options = arguments(__doc__, rows=160, batch=[16, 32], rounds=3)
    lm, task = loaded(options)
    tell(measure(lm, first(task, options.rows, options.rows // 2), options.batch, options.rounds), lm)


if __name__ == "__main__":
    main()
