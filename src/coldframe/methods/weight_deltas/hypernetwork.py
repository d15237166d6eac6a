"""A network that writes the adapter of a passage from the passage's embedding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from coldframe.config import check
from coldframe.methods.weight_deltas.adapters import Layout


class Hypernetwork(nn.Module):
    r"""Adapters from embeddings: two small networks for every target, one for A and one for B.

    For target m of layer l, with ``e`` the embedding of a passage and u = ``concat(e, l)`` in ``R^{d+1}``::

        A_m(e) = reshape(W_2 relu(W_1 u)),  W_1 in R^{p x (d+1)},  W_2 in R^{r in_m x p}
        B_m(e) = reshape(V_2 relu(V_1 u)),  V_1 in R^{p x (d+1)},  V_2 in R^{r out_m x p}

    No biases; nothing is shared between targets, or between A and B. All weights start normal, with ``init_std``.

    Paper: Tan et al. 2025, arXiv 2503.23895.

    Args:
        layout: Of the adapters.
        d_model: d, width of an embedding.
        width: p.
        init_std: See above.
        seed: Of the start.

    Shapes:
        ``[n, d]`` -> ``[n, N]``, adapters as the layout has them.

    Example:
        >>> layout = Layout(("model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"), ((4, 6), (6, 4)), rank=2)
        >>> Hypernetwork(layout, d_model=4)(torch.zeros(3, 4)).shape
        torch.Size([3, 40])
    """

    def __init__(self, layout: Layout, d_model: int, width: int = 32, init_std: float = 1e-3, seed: int = 0) -> None:
        super().__init__()
        self.layout, self.d_model, self.width = layout, d_model, width
        # W_1 and V_1 of the first target, then of the next; the rows of W_2 and V_2 lie as the parameters they make.
        self.first = nn.Parameter(torch.empty(len(layout.pieces), width, d_model + 1))
        self.second = nn.Parameter(torch.empty(layout.parameters, width))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for weight in self.parameters():
                nn.init.normal_(weight, std=init_std)

    @classmethod
    def from_state(cls, layout: Layout, state: Mapping[str, Tensor]) -> Self:
        """From its weights by name, ``first`` and ``second``; kept in float32."""
        first, second = state["first"], state["second"]
        fits = first.dim() == 3 and len(first) == len(layout.pieces)
        fits = fits and tuple(second.shape) == (layout.parameters, first.shape[1])
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        check(fits, "The hypernetwork's weights do not fit the layout", got=shapes)
        network = cls(layout, first.shape[2] - 1, first.shape[1])
        network.load_state_dict({"first": first.float(), "second": second.float()})
        return network.requires_grad_(False)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Adapters of some passages."""
        into, of_layer = self.first[..., :-1].flatten(0, 1), self.first[..., -1]
        layers = of_layer.new_tensor([layer for layer in self.layout.layers for _ in "AB"])
        before = (embeddings @ into.T).view(-1, *of_layer.shape) + layers[:, None] * of_layer
        hidden = before.relu().unbind(1)
        pieces = self.second.split(self.layout.pieces)
        return torch.cat([h @ rows.T for h, rows in zip(hidden, pieces, strict=True)], dim=-1)
