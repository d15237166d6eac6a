"""Time and memory of many labels of several tokens, as multiples of those of two.

    python -m benchmarks.labels
    python -m benchmarks.labels --labels 77 --batch 16

A training step is Prompt Tuning's with suffix placement and kept states of the texts: a batch of prompts forward, the
cross-entropy of their labels, and backward. Evaluation reads prompts that were not seen before. Both score as methods
do, by the choices among the labels. Memory is the highest of the process, each way in a process of its own; what the
model takes is in it.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.common import TOKENS, Way, arguments, goal, interleaved, say, tell
from coldframe.frozen.memory import peak_memory_mb, reset_peak_memory
from coldframe.frozen.model import FrozenLM, load_lm
from coldframe.frozen.ports import Conditioning, Prompt

TWO = ("book flight", "exchange rate")
# The intents of CLINC150 (Larson et al. 2019, arXiv 1909.02027, CC BY 3.0), blanks for underscores.
INTENTS = """
restaurant reviews|nutrition info|account blocked|oil change how|time|weather|redeem rewards|interest rate|gas type
accept reservations|smart home|user name|report lost card|repeat|whisper mode|what are your hobbies|order|jump start
schedule meeting|meeting schedule|freeze account|what song|meaning of life|restaurant reservation|traffic|make call|text
bill balance|improve credit score|change language|no|measurement conversion|timer|flip coin|do you have pets|balance
tell joke|last maintenance|exchange rate|uber|car rental|credit limit|shopping list|expiration date|routing
meal suggestion|tire change|todo list|card declined|rewards balance|change accent|vaccines|reminder update|food last
change ai name|bill due|who do you work for|share location|international visa|calendar|translate|carry on|book flight
insurance change|todo list update|timezone|cancel reservation|transactions|credit score|report fraud|spending history
directions|spelling|insurance|what is your name|reminder|where are you from|distance|payday|flight status|find phone
greeting|alarm|order status|confirm reservation|cook time|damaged card|reset settings|pin change
replacement card duration|new card|roll dice|income|taxes|date|who made you|pto request|tire pressure|how old are you
rollover 401k|pto request status|how busy|application status|recipe|calendar update|play music|yes|direct deposit
credit limit change|gas|pay bill|ingredients list|lost luggage|goodbye|what can i ask you|book hotel|are you a bot
next song|change speed|plug type|maybe|w2|oil change when|thank you|shopping list update|pto balance|order checks
travel alert|fun fact|sync device|schedule maintenance|apr|transfer|ingredient substitution|calories|current location
international fees|calculator|definition|next holiday|update playlist|mpg|min payment|change user name
restaurant suggestion|travel notification|cancel|pto used|travel suggestion|change volume
"""
LABELS = tuple(name for line in INTENTS.split("\n") if line for name in line.split("|"))
PHASES = ("training", "evaluation")


def prompts_of(lm: FrozenLM, batch: int, tokens: int) -> list[Prompt]:
    """Prompts of about so many tokens, each its own."""
    sentence = "I would like to know how this works and what it costs me. "
    texts = [f"Question {i}: " + sentence * (1 + tokens // 13) for i in range(batch)]
    cut = [lm.decode(list(lm.tokenize(text)[: tokens - 4 - i % 7])) for i, text in enumerate(texts)]
    return [Prompt(f"{text}\nIntent:", end="\n") for text in cut]


def work(lm: FrozenLM, phase: str, words: tuple[str, ...], batch: int, tokens: int) -> Way:
    """One batch."""
    generator = torch.Generator().manual_seed(0)
    soft = torch.randn(TOKENS, lm.d_model, generator=generator) * lm.embedding_norm() / lm.d_model**0.5
    soft = soft.to(lm.device).requires_grad_(phase == "training")
    put, targets = Conditioning(soft_tokens=soft), [i % len(words) for i in range(batch)]

    def prepare() -> list[Prompt]:
        prompts = prompts_of(lm, batch, tokens)
        lm.states.clear()
        if phase == "training":
            lm.text_states(lm.rows(prompts))
        return prompts

    def train(prompts: list[Prompt]) -> None:
        lm.label_losses(prompts, words, targets, put, choices=True).mean().backward()

    @torch.no_grad()
    def evaluate(prompts: list[Prompt]) -> None:
        lm.label_scores(prompts, words, put, choices=True)

    return Way(train if phase == "training" else evaluate, prepare)


def _highest(send: Any, model: str, threads: int, options: tuple[Any, ...]) -> None:
    """Highest memory of one way, MB; in a process of its own."""
    torch.set_num_threads(threads)
    lm = load_lm(model)
    reset_peak_memory()
    way = work(lm, *options)
    for _ in range(2):
        way.run(way.prepare())
    send.send(peak_memory_mb(str(lm.device)))


def memory(model: str, threads: int, *options: Any) -> float:
    """:func:`_highest`, from here."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_highest, args=(send, model, threads, options))
    process.start()
    send.close()
    highest = float(receive.recv())
    process.join()
    return highest


def measure(
    lm: FrozenLM, labels: int, batch: int, tokens: int, rounds: int, highest: Callable[..., float]
) -> dict[str, Any]:
    """Times and memory of both phases, with two labels and with many."""
    sets = {2: TWO, labels: LABELS[:labels]}
    result: dict[str, Any] = {"labels": labels, "batch": batch, "prompt_tokens": tokens, "soft_tokens": TOKENS}
    goals = []
    for phase in PHASES:
        options = {n: (phase, words, batch, tokens) for n, words in sets.items()}
        ways = {f"{phase}, {n} labels": work(lm, *option) for n, option in options.items()}
        interleaved(ways, 1)  # warm up
        times = interleaved(ways, rounds)
        seconds = {name: sorted(t.cpu for t in taken)[len(taken) // 2] for name, taken in times.items()}
        walls = {name: sorted(t.wall for t in taken)[len(taken) // 2] for name, taken in times.items()}
        peaks = {name: highest(*option) for name, option in zip(ways, options.values(), strict=True)}
        for name in ways:
            say(f"  {name:30} {walls[name]:8.2f} s  {seconds[name]:8.2f} s of the processor  {peaks[name]:8.0f} MB")
        two, many = ways
        result[phase] = {"seconds": walls, "seconds_processor": seconds, "highest_memory_mb": peaks}
        what = f"{labels} labels as a multiple of two, batch {batch}, {phase}"
        goals.append(goal(f"time of {what}", seconds[many] / seconds[two], 3.0, least=False))
        goals.append(goal(f"memory of {what}", peaks[many] / peaks[two], 1.5, least=False))
    return {**result, "goals": goals}


def main() -> None:
    options = arguments(__doc__, labels=150, batch=32, tokens=60, rounds=3)
    say(f"loading {options.model}")
    lm = load_lm(options.model)

    def highest(*way: Any) -> float:
        return memory(options.model, options.threads, *way)

    tell(measure(lm, options.labels, options.batch, options.tokens, options.rounds, highest), lm)


if __name__ == "__main__":
    main()
