"""A small model of GPT-2's architecture, trained here in a few minutes: for diagnoses without a download.

    python -m reproduction.small_gpt2 runs/small-gpt2
    coldframe fit --recipe recipes/latent-memory-facts.yaml --model runs/small-gpt2

Text is made up by a seed, in the forms of the built-in tasks ``facts`` and ``dense-store``: facts about places and
questions about them, lines of a log. Places, colours and sounds are drawn anew for every document, so that the model
learns the forms and the words but no fact that a task asks for. The folder holds a transformers checkpoint
(safetensors, tokenizer) that ``load_lm(folder)`` reads; the same seed gives the same weights on one machine.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from coldframe.storage.files import atomic_path
from coldframe.tasks.builtin import dense_store, facts
from coldframe.tasks.task import Template

WIDTH, LAYERS, HEADS, CONTEXT, VOCABULARY = 256, 4, 4, 256, 640
STEPS, BATCH, RATE = 300, 16, 2e-3
SAMPLE = 5_000  # documents that the vocabulary is learned from
START, END = "<|startoftext|>", "<|endoftext|>"

FACTS, WATCH = Template(facts.BODY, facts.INSTRUCTION), Template(dense_store.BODY, dense_store.INSTRUCTION)


def document(rng: random.Random) -> str:
    """One made-up text: a watchman's log, or up to three facts and questions about them."""
    if rng.random() < 0.2:
        lines = [WATCH.exemplar(dense_store.line(rng), rng.choice(list(dense_store.SHARES))) for _ in range(3)]
        return WATCH.header * (rng.random() < 0.5) + "".join(lines)
    known = [(facts.place(rng), rng.choice(facts.COLOURS)) for _ in range(rng.randint(1, 3))]
    statements = [FACTS.exemplar(facts.ENTRY.format(place), colour) for place, colour in known]
    questions = [FACTS.exemplar(facts.QUERY.format(place), colour) for place, colour in rng.sample(known, len(known))]
    return FACTS.header * (rng.random() < 0.5) + "".join([*statements, *questions])


def tokenizer_of(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    """A byte-level vocabulary learned from texts, as GPT-2's is, with a token that begins a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[START, END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A", special_tokens=[(START, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=START, eos_token=END, pad_token=END)


def batch(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> tuple[Tensor, Tensor]:
    """Documents with their end, padded: token ids and mask, ``[BATCH, longest]``."""
    rows = [[*tokenizer(document(rng)).input_ids, 1] for _ in range(BATCH)]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [1] * (longest - len(row)) for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])


def loss_of(model: GPT2LMHeadModel, ids: Tensor, mask: Tensor) -> Tensor:
    """Mean negative log-likelihood of the next token, pads left out."""
    logits, real = model(input_ids=ids, attention_mask=mask).logits[:, :-1], mask[:, 1:] == 1
    return torch.nn.functional.cross_entropy(logits[real], ids[:, 1:][real])


def train(steps: int, seed: int) -> tuple[GPT2LMHeadModel, PreTrainedTokenizerFast]:
    """The model after ``steps`` of next-token prediction."""
    rng = random.Random(seed)
    tokenizer = tokenizer_of(document(rng) for _ in range(SAMPLE))
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=CONTEXT,
        bos_token_id=0, eos_token_id=1, pad_token_id=1, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    started = time.process_time()
    for step in range(steps):
        loss = loss_of(model, *batch(tokenizer, rng))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            print(f"step {step + 1}: loss {loss.item():.3f}, {time.process_time() - started:.0f} s of processor time")
    return model, tokenizer


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model, tokenizer = train(options.steps, options.seed)
    with atomic_path(options.out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
