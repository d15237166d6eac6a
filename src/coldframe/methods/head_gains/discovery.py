"""Which heads hold retrieval back: the effect of taking each away, on sequences that only copying can continue."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from coldframe.errors import ConfigError, ModelError
from coldframe.frozen.model import FrozenLM
from coldframe.methods.head_gains.ablation import attribution, one_by_one
from coldframe.methods.head_gains.config import ReweightConfig
from coldframe.methods.head_gains.path_patching import path_patching
from coldframe.methods.head_gains.proxy import ProxyTask, centred_logit
from coldframe.progress import Bar
from coldframe.storage.tensors import read_tensors, write_tensors


@dataclasses.dataclass(frozen=True)
class Effects:
    """What was measured, one row for each pair of N and n.

    Shapes:
        clean: ``[pairs]``, mean of ``pi`` over the sequences; patched: ``[pairs, layers, heads]``, of ``pi~``.
    """

    clean: Tensor
    patched: Tensor

    def by_pair(self, effect: str = "difference") -> Tensor:
        """Effects by pair of N and n, ``[pairs, layers, heads]``.

            difference:  D(l, h) = mean(pi~) - mean(pi)
            ratio:       D(l, h) = mean(pi~) / mean(pi) - 1

        Above 0, the right token gains when the head is away: the head holds retrieval back.

        Paper: Tan et al. 2025 (PEAR): their code has the difference, their text the ratio.

        Raises:
            ModelError: For the ratio, if the model does not favour the right token, so that it has no sign.
        """
        clean = self.clean[:, None, None]
        if effect == "difference":
            return self.patched - clean
        if not bool((self.clean > 0).all()):
            raise ModelError(
                "The model does not copy, so a ratio says nothing",
                got=f"mean centred logits {[round(float(pi), 2) for pi in self.clean]}",
                expected="above 0",
                fix="Use effect=difference.",
            )
        return self.patched / clean - 1

    def mean(self, effect: str = "difference") -> Tensor:
        """Effects averaged over the pairs, ``[layers, heads]``."""
        return self.by_pair(effect).mean(0)

    def stability(self, effect: str = "difference") -> float | None:
        """Mean rank correlation between the effects of two pairs; None if there is one pair only."""
        rows = self.by_pair(effect).flatten(1)
        correlations = [rank_correlation(a, b) for i, a in enumerate(rows) for b in rows[:i]]
        return sum(correlations) / len(correlations) if correlations else None


def discover(lm: FrozenLM, config: ReweightConfig, path: Path | None = None, quiet: bool = True) -> Effects:
    """Measure the effect of every query head on the proxy task.

    For a sequence ``x_1 .. x_n x_1 .. x_n`` the model predicts the very last token; ``pi`` is that token's logit minus
    the mean logit, ``pi~(l, h)`` the same with head ``h`` of layer ``l`` at its mean at that position.

    Paper: Tan et al. 2025 (PEAR), arXiv 2409.19745.

    Args:
        lm: The model; computed in float32 whatever its weights are.
        config: ``repetitions``, ``discovery``, ``mean_over``, ``bos`` and ``seed`` count here.
        path: File of the finished pairs: an interrupted run goes on with it.
        quiet: No progress bar.

    Raises:
        ConfigError: If a sequence is longer than the model's context.
        ModelError: If the vocabulary is too small, or activations are not finite.
    """
    task = ProxyTask(lm, config.bos, config.seed)
    for _, n in config.repetitions:
        task.check(n)
    tensors = read_tensors(path)[0] if path is not None and path.exists() else {}
    clean, patched = list(tensors.get("clean", ())), list(tensors.get("patched", ()))
    with Bar(len(config.repetitions), "find heads", quiet) as bar:
        bar.skip(len(clean))
        for index in range(len(clean), len(config.repetitions)):
            count, n = config.repetitions[index]
            pi, pi_patched = _measure(lm, config, task.sequences(count, n, 0, index))
            clean.append(pi.mean().cpu())
            patched.append(pi_patched.mean(-1).cpu())
            bar.advance(1)
            if path is not None:
                write_tensors(path, {"clean": torch.stack(clean), "patched": torch.stack(patched)})
    return Effects(torch.stack(clean), torch.stack(patched))


def _measure(lm: FrozenLM, config: ReweightConfig, ids: Tensor) -> tuple[Tensor, Tensor]:
    """``pi``, ``[N]``, and ``pi~``, ``[layers, heads, N]``, of one set of sequences."""
    context, targets = ids[:, :-1], ids[:, -1]
    if config.discovery == "attribution":
        return attribution(lm, context, targets, config.mean_over)
    if config.discovery == "path":
        clean, patched = path_patching(lm, context, config.mean_over)
    else:
        clean, patched = one_by_one(lm, context, config.mean_over)
    pi, pi_patched = centred_logit(lm, clean, targets), centred_logit(lm, patched, targets)
    return pi, pi_patched.view(lm.anatomy.n_layers, lm.anatomy.n_heads, -1)


def threshold(effects: Tensor) -> float:
    """The effect above which a head stands out: ``median + 3 * 1.4826 * MAD``.

    Nearly all heads do nearly nothing, so the median and the median absolute deviation describe them, and the few
    large effects on either side do not move the line. 1.4826 makes the deviation that of a normal
    distribution. The rule is ours; the paper tries K from 5 to 40.

    >>> round(threshold(torch.tensor([-9.0, -1.0, 0.0, 1.0, 2.0, 50.0])), 3)
    4.448
    """
    median = effects.median()
    return float(median + 3 * 1.4826 * (effects - median).abs().median())


def choose_heads(effects: Tensor, config: ReweightConfig) -> list[tuple[int, int]]:
    """The heads that get a gain, ``(layer, head)``, in the order of their effects (or as they were drawn)."""
    flat = effects.flatten()
    if config.heads is not None and config.heads > len(flat):
        raise ConfigError("The model has fewer heads", got=f"heads={config.heads}", expected=f"at most {len(flat)}")
    order = flat.argsort(descending=True, stable=True).tolist()
    count = config.heads if config.heads is not None else int((flat > max(0.0, threshold(flat))).sum())
    if config.choose == "all":
        count = len(flat)
    if count == 0:
        raise ConfigError("No head stands out, so none is chosen", fix="Give the number of heads.")
    if config.choose == "lowest":
        order.reverse()
    elif config.choose == "random":
        generator = torch.Generator().manual_seed(config.seed)
        order = torch.randperm(len(flat), generator=generator).tolist()
    return [divmod(i, effects.shape[1]) for i in order[:count]]


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation of two vectors without ties.

    >>> round(rank_correlation(torch.tensor([1.0, 5.0, 3.0]), torch.tensor([10.0, 20.0, 30.0])), 3)
    0.5
    """
    ranks = torch.stack([x.argsort().argsort().double() for x in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])
