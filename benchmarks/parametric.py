"""Passages into weights: encoding, storage, and a query, beside the published way of PRAG and text RAG.

    python -m benchmarks.parametric

Encoding: the published way trains one passage after another through peft (batch 1, float32); the same loop in the
model's dtype stands beside it, then our PRAG and Poly-PRAG. All train the same sequences (of invented passages)
at the same rank, scale and epochs as the methods' own settings say.

Storage: numbers as they follow from the shapes, and files as they are written, for 1,000 passages and more; and how
long it takes to read one passage's row out of a table of a million.

A query: from its text to so many new tokens, retrieval counted, one at a time and in batches. Adapters are of random
numbers: they cost what trained ones cost, and nothing ends an answer early.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from coldframe.parametric.banks import SHARDS, AdapterShards, Bank, RoutedBank, write_bank, write_shard
from coldframe.parametric.encoded import Encoded
from coldframe.parametric.folder import Described
from coldframe.parametric.settings import AskConfig
from coldframe.tasks.corpus import Corpus, Question
from coldframe.tasks.fact_corpus import fact_corpus
from torch import Tensor

from benchmarks.common import Way, arguments, goal, interleaved, say, tell
from coldframe.frozen.model import FrozenLM, load_lm
from coldframe.frozen.ports import EMPTY
from coldframe.frozen.sequence_loss import TokenSequence
from coldframe.methods.weight_deltas.adapters import Layout
from coldframe.methods.weight_deltas.poly_prag import PolyBank, PolyPRAGConfig, PolyTrainer
from coldframe.methods.weight_deltas.prag import PRAGConfig, batches, train_adapters

PEER = "peft, one passage after another, float32"
PEER_OWN = "peft, one passage after another, own dtype"
NEW_TOKENS, K = 8, 3


class Peer:
    """The loop of PRAG's authors: a LoRA from the shared start, batch 1, AdamW, one passage after another."""

    def __init__(self, lm: FrozenLM, config: PRAGConfig, dtype: torch.dtype) -> None:
        from peft import LoraConfig, get_peft_model

        self.config = config
        targets = sorted({name.rpartition(".")[2] for name in Layout.of(lm.anatomy, config.rank, config.targets).names})
        lora = LoraConfig(r=config.rank, lora_alpha=int(config.alpha), target_modules=targets, task_type="CAUSAL_LM")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model = get_peft_model(copy.deepcopy(lm.model).to(dtype), lora)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.start = [p.detach().clone() for p in self.trained]
        self.device = lm.device

    def encode(self, passages: Sequence[Sequence[TokenSequence]]) -> None:
        """Adapters of some passages; they stay in memory, as what is timed is training."""
        for sequences in passages:
            with torch.no_grad():
                for p, start in zip(self.trained, self.start, strict=True):
                    p.copy_(start)
            settings = {"lr": self.config.learning_rate, "weight_decay": self.config.weight_decay}
            optimizer = torch.optim.AdamW(self.trained, **settings)
            for _ in range(self.config.epochs):
                for one in sequences:
                    ids = torch.tensor([one.ids], device=self.device)
                    labels = ids.clone()
                    labels[:, : one.start] = -100
                    optimizer.zero_grad()
                    self.model(input_ids=ids, labels=labels).loss.backward()
                    optimizer.step()


def encoding(lm: FrozenLM, passages: int, peers: int, rounds: int) -> dict[str, Any]:
    """Passages a second, each way on as many passages as it is given; the peers get fewer."""
    made = fact_corpus(passages).corpus
    config, poly = PRAGConfig(), PolyPRAGConfig()
    layout = Layout.of(lm.anatomy, config.rank, config.targets)
    sequences = [config.prompts.of(lm, one, made.given[one.id]) for one in made.passages]

    def prag(_: Any) -> None:
        for group in batches(lm, sequences, config):
            train_adapters(lm, layout, config, [sequences[i] for i in group])

    ways = {
        PEER: Way(Peer(lm, config, torch.float32).encode, lambda: sequences[:peers]),
        PEER_OWN: Way(Peer(lm, config, lm.dtype).encode, lambda: sequences[:peers]),
        "prag": Way(prag),
        "poly-prag": Way(lambda _: PolyTrainer(lm, layout, poly, sequences).train()),
    }
    counts = {name: peers if name in (PEER, PEER_OWN) else passages for name in ways}
    times = interleaved(ways, rounds)
    lines = [
        {
            "way": name,
            "passages": counts[name],
            "seconds_per_passage": statistics.median(t.wall / counts[name] for t in taken),
            "processor_seconds_per_passage": statistics.median(t.cpu / counts[name] for t in taken),
        }
        for name, taken in times.items()
    ]

    def ratio(slow: str, fast: str) -> float:
        both = zip(times[slow], times[fast], strict=True)
        return statistics.median((s.wall / counts[slow]) / (f.wall / counts[fast]) for s, f in both)

    goals = [
        goal(f"prag, passages/s against {PEER}", ratio(PEER, "prag"), 5.0),
        goal(f"prag, passages/s against {PEER_OWN}", ratio(PEER_OWN, "prag"), 1.0),
    ]
    what = "poly-prag, seconds a passage as a multiple of prag's"
    goals.append(goal(what, ratio("poly-prag", "prag"), 1.0, least=False))
    return {"settings": {"prag": config.to_dict(), "poly-prag": poly.to_dict()}, "ways": lines, "goals": goals}


def storage(lm: FrozenLM, passages: int) -> dict[str, Any]:
    """Bytes of both, by shapes and on the disk, at the same rank and in the same dtype."""
    config = PolyPRAGConfig()
    layout = Layout.of(lm.anatomy, config.rank, config.targets)
    size = 2  # bytes of a bfloat16

    def numbers(count: int) -> dict[str, Any]:
        prag = count * layout.numbers
        poly = config.adapters * layout.numbers + count * len(layout.names) * config.adapters
        return {"passages": count, "prag": prag * size, "poly-prag": poly * size, "ratio": prag / poly}

    ids = [f"{i:016x}" for i in range(passages)]
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, passages, 64):
            some = ids[start : start + 64]
            described = {"fingerprint": "f", "augmentations": some}
            write_shard(
                Path(folder) / SHARDS, some, torch.zeros(len(some), layout.numbers, dtype=torch.bfloat16), described
            )
        shards = AdapterShards(Path(folder) / SHARDS, layout, config.scale, ids, ids).nbytes
        path = Path(folder) / "bank.safetensors"
        bank = torch.zeros(config.adapters, layout.numbers)
        write_bank(path, PolyBank(bank, torch.zeros(passages, len(layout.names), config.adapters)), torch.bfloat16)
        routed = path.stat().st_size
    files = {"passages": passages, "prag": shards, "poly-prag": routed, "ratio": shards / routed}
    shapes = [numbers(count) for count in sorted({100, 1_000, 10_000, 100_000, passages})]
    what = f"bytes of prag against poly-prag, {passages:,} passages, S = {config.adapters}, rank {config.rank}"
    exact = numbers(passages)["ratio"]
    goals = [goal(f"{what}, by shapes", exact, 100.0), goal(f"{what}, files", files["ratio"], 100.0)]
    return {"bfloat16, by shapes": shapes, "bfloat16, files": files, "goals": goals}


def lookup(lm: FrozenLM, rows: int, reads: int = 500) -> dict[str, Any]:
    """Seconds to read the weights of one passage out of a table of many, each time another; the file is mapped."""
    layout = Layout.of(lm.anatomy, PolyPRAGConfig.rank, PolyPRAGConfig.targets)
    adapters = PolyPRAGConfig.adapters
    ids = [f"{i:016x}" for i in range(rows)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bank.safetensors"
        row = torch.zeros(1, len(layout.names), adapters, dtype=torch.bfloat16)
        write_bank(path, PolyBank(torch.zeros(adapters, layout.numbers), row.expand(rows, -1, -1)), torch.bfloat16)
        bank = RoutedBank(path, layout, 1.0, ids)
        taken = []
        for place in torch.randint(rows, (reads,), generator=torch.Generator().manual_seed(0)).tolist():
            started = time.perf_counter()
            bank.weights([ids[place]])
            taken.append(time.perf_counter() - started)
        size = bank.nbytes
    taken.sort()
    middle, late = 1e6 * statistics.median(taken), 1e6 * taken[int(0.95 * reads)]
    goals = [goal(f"microseconds to read a routing row out of {rows:,}", middle, 100.0, unit="", least=False)]
    return {"rows": rows, "bytes": size, "microseconds": middle, "microseconds_p95": late, "goals": goals}


def answering(lm: FrozenLM, passages: int, queries: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Seconds a query of each way, in the same round."""
    made = fact_corpus(passages)
    questions = [one for one in made.questions if one.hops == 1][: queries + 1]
    prag, poly = PRAGConfig(), PolyPRAGConfig()
    layout = Layout.of(lm.anatomy, prag.rank, prag.targets)
    ids = [one.id for one in made.corpus.passages]
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw) * 1e-3

    for start in range(0, passages, 64):
        some = ids[start : start + 64]
        adapters = random(len(some), layout.numbers).bfloat16()
        write_shard(folder / SHARDS, some, adapters, {"fingerprint": "f", "augmentations": some})
    table = random(passages, len(layout.names), poly.adapters)
    write_bank(folder / "bank.safetensors", PolyBank(random(poly.adapters, layout.numbers), table), torch.bfloat16)
    banks: dict[str, Bank] = {
        "prag": AdapterShards(folder / SHARDS, layout, prag.scale, ids, ids),
        "poly-prag": RoutedBank(folder / "bank.safetensors", layout, poly.scale, ids),
    }
    configs = {"prag": prag, "poly-prag": poly}
    served = {name: _encoded(lm, made.corpus, name, configs[name], bank) for name, bank in banks.items()}
    base = AskConfig(k=K, max_new_tokens=NEW_TOKENS)
    asked = {
        "closed book": (served["prag"], base.replace(mode="closed-book")),
        f"text RAG, k = {K}": (served["prag"], base.replace(mode="passages")),
        f"prag, k = {K}, summed": (served["prag"], base),
        "prag, k = 1": (served["prag"], base.replace(k=1)),
        f"poly-prag, k = {K}": (served["poly-prag"], base),
        "poly-prag, k = 1": (served["poly-prag"], base.replace(k=1)),
    }
    goals, told = [], {}
    for batch in (1, 16):
        say(f"{batch} at a time")
        ways = {name: _ask(one, questions, config.replace(batch_size=batch)) for name, (one, config) in asked.items()}
        times = interleaved(ways, rounds)
        told[f"{batch} at a time"] = [
            {
                "way": name,
                "seconds_per_query": statistics.median(t.wall for t in taken) / queries,
                "multiple_of_closed_book": statistics.median(
                    t.wall / c.wall for t, c in zip(taken, times["closed book"], strict=True)
                ),
            }
            for name, taken in times.items()
        ]
        for line in told[f"{batch} at a time"]:
            if line["way"] == f"poly-prag, k = {K}":
                what = f"query as a multiple of closed book, {batch} at a time: {line['way']}"
                goals.append(goal(what, line["multiple_of_closed_book"], 1.1, least=False))
    return {"new_tokens": NEW_TOKENS, "queries": queries, **told, "goals": goals}


def _ask(encoded: Encoded, questions: Sequence[Question], config: AskConfig) -> Way:
    """From text to so many new tokens. Nothing stops an answer early, so all ways write as much."""
    lm = encoded.lm

    def answer(some: Sequence[Question]) -> None:
        prompts = [encoded.prompts.prompt(one.text) for one in some]
        alone = config.mode == "closed-book"
        conditioning = EMPTY if alone else encoded.condition(encoded.retrieve(some, config), config)
        lm.generate(prompts, conditioning, max_new_tokens=NEW_TOKENS)

    def prepare() -> None:
        lm.states.clear()
        answer(questions[:1])  # indexes the passages

    def run(_: Any) -> None:
        for start in range(1, len(questions), config.batch_size):
            answer(questions[start : start + config.batch_size])

    return Way(run, prepare)


def _encoded(lm: FrozenLM, corpus: Corpus, method: str, config: Any, bank: Bank) -> Encoded:
    base = {**lm.provenance, "weight_hash": lm.weight_hash, "dtype": str(lm.dtype)}
    return Encoded(lm, Described(method, config, bank.layout, base, {"failed": {}}), corpus, bank)


def measure(
    lm: FrozenLM, *, passages: int, peers: int, stored: int, rows: int, queries: int, rounds: int
) -> dict[str, Any]:
    """All of it."""
    say("encoding")
    encoded = encoding(lm, passages, peers, rounds)
    say("storage")
    kept = storage(lm, stored)
    say("a query")
    with tempfile.TemporaryDirectory() as folder:
        asked = answering(lm, max(passages, 64), queries, rounds, Path(folder))
    parts = {"encoding": encoded, "storage": kept, "lookup": lookup(lm, rows), "query": asked}
    goals = [line for part in parts.values() for line in part.pop("goals")]
    return {"rounds": rounds, **parts, "goals": goals}


def main() -> None:
    options = arguments(__doc__, passages=64, peers=2, stored=1000, rows=1_000_000, queries=16, rounds=3)
    lm = load_lm(options.model)
    numbers = {name: getattr(options, name) for name in ("passages", "peers", "stored", "rows", "queries", "rounds")}
    tell(measure(lm, **numbers), lm)


if __name__ == "__main__":
    main()
