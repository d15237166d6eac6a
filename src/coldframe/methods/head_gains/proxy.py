"""The proxy task: random tokens, repeated once. What continues the copy can only be read off the context."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from coldframe.errors import ConfigError, ModelError
from coldframe.frozen.float32 import in_float32
from coldframe.frozen.model import FrozenLM
from coldframe.methods.head_gains.config import Bos

_TOKENS_PER_PLACE = 4  # with fewer tokens to draw from, more than one place in four has a double before it


class ProxyTask:
    """Sequences ``x_1 .. x_n x_1 .. x_n`` with ``x_i`` drawn evenly from the vocabulary; BOS first, if wanted.

    Paper: Tan et al. 2025 (PEAR), arXiv 2409.19745. Deviates: special tokens, and rows of the embedding that
    belong to no token, are never drawn.
    """

    def __init__(self, lm: FrozenLM, bos: Bos = "auto", seed: int = 0) -> None:
        self.lm, self.seed = lm, seed
        begin = lm.tokenizer.bos_token_id
        if bos == "always" and begin is None:
            raise ConfigError("The tokenizer has no BOS token", got="bos=always", fix="Use bos=never.")
        self.start: tuple[int, ...] = {"auto": lm.bos, "never": (), "always": (begin,)}[bos]
        added = getattr(lm.tokenizer, "added_tokens_decoder", {})
        special = {*lm.tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
        vocabulary = {i for i in lm.tokenizer.get_vocab().values() if i < lm.anatomy.vocab_size}
        self.tokens = np.array(sorted(vocabulary - special))

    def check(self, n: int) -> None:
        """Whether sequences of ``2 n`` tokens can be drawn for this model."""
        length, limit = len(self.start) + 2 * n, self.lm.max_positions
        if length > limit:
            raise ConfigError(
                "A sequence is longer than the model's context", got=f"{length} tokens", expected=f"at most {limit}"
            )
        if len(self.tokens) < _TOKENS_PER_PLACE * n:
            raise ModelError(
                "The tokenizer's vocabulary is too small for random sequences",
                got=f"{len(self.tokens)} tokens that are not special, n = {n}",
                expected=f"at least {_TOKENS_PER_PLACE} n",
                fix="Make the sequences shorter, or take a model with a usual tokenizer.",
            )

    def sequences(self, count: int, n: int, *stream: int) -> Tensor:
        """Token ids of ``count`` sequences; the same for the same ``stream`` of numbers, whatever came before.

        Shapes:
            Returns ``[count, BOS + 2 n]``.
        """
        self.check(n)
        ids = np.random.default_rng((self.seed, *stream)).choice(self.tokens, (count, n))
        start = np.tile(np.array(self.start, dtype=ids.dtype), (count, 1))
        return torch.from_numpy(np.concatenate((start, ids, ids), axis=1)).to(self.lm.device)

    def copy_losses(self, ids: Tensor) -> Tensor:
        """Negative log-likelihood of the copy's tokens, ``-log p(x_{i+1} | x_{<=i})`` for i = n+1 .. 2n-1.

        Paper: Tan et al. 2025. Deviates: theirs counts the first token of the copy as well, which nothing foretells.

        Shapes:
            ids: from :meth:`sequences` -> ``[count, n - 1]``, float32.
        """
        first = len(self.start) + (ids.shape[1] - len(self.start)) // 2
        hidden = self.lm.body(inputs_embeds=self.lm.embed(ids[:, :-1]), use_cache=False).last_hidden_state
        logits = self.lm.head(hidden[:, first:])
        targets = ids[:, first + 1 :]
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return losses.view(targets.shape)


def centred_logit(lm: FrozenLM, hidden: Tensor, targets: Tensor) -> Tensor:
    """``pi``: the logit of the target, minus the mean logit over the vocabulary.

    Without a soft cap both are linear in the hidden state, so no other logit is computed.

    Shapes:
        hidden: ``[..., N, d]``, after the last norm; targets: ``[N]``. Returns ``[..., N]``, float32.
    """
    head = lm.anatomy.lm_head
    if lm.anatomy.logit_softcap is None:
        pi: Tensor = (hidden * (head.weight[targets].float() - head.weight.mean(0, dtype=torch.float32))).sum(-1)
        return pi if head.bias is None else pi + head.bias[targets].float() - head.bias.float().mean()
    rows = []
    with in_float32(head.parameters()):
        for row in hidden.reshape(-1, *hidden.shape[-2:]):
            logits = lm.head(row)
            rows.append(logits.gather(-1, targets[:, None]).squeeze(-1) - logits.mean(-1))
    return torch.stack(rows).view(hidden.shape[:-1])
