"""Where things live in a model, per architecture, as data: no copied modeling code, no branches on a name.

To add an architecture, add an entry to ``ANATOMIES`` (see the how-to "Add an architecture").
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from coldframe.errors import ConfigError, ModelError, nearest

Position = Literal["rope", "learned", "alibi"]
LinearKind = Literal["all", "attention", "mlp"]


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """Paths into the module tree of one architecture. The defaults are llama's.

    Attributes:
        body: Module whose first output is the final hidden states, after the last norm.
        embeddings: Token embedding. What it returns is what ``inputs_embeds`` takes, scale included.
        embedding_scale: Attribute of the embedding with the factor that it multiplies its weight's rows by.
        layers: List of blocks. The paths below start at a block.
        final_norm: Last norm; a module that is None is allowed (some OPT models have none).
        project_out: Linear between the last norm and ``lm_head``, where there is one; None is allowed.
        lm_head: Linear from the final hidden states to the logits.
        attention: Attention module.
        residual: Place among the attention's arguments of a residual that it adds to its output itself.
        o_proj: Its output projection, whose *input* is the query heads side by side.
        qkv: Its input projections: three linears, or one fused.
        fused: How the rows of a fused projection are laid out.
        mlp: Linears of the feed-forward block, in the order in which data passes them.
        position: How positions get in.
        alibi_flag: Field of the config that turns ``position`` into ``alibi`` where true.
        parallel: Whether attention and feed-forward read the same input; or the config fields that say so.
        default_positions: Context length where the config names none.
        refused: Fields of the config that, where true, make the model go round its own modules.
    """

    body: str = "model"
    embeddings: str = "model.embed_tokens"
    embedding_scale: str | None = None
    layers: str = "model.layers"
    final_norm: str = "model.norm"
    project_out: str | None = None
    lm_head: str = "lm_head"
    attention: str = "self_attn"
    residual: int | None = None
    o_proj: str = "self_attn.o_proj"
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    fused: str = ""
    mlp: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    position: Position = "rope"
    alibi_flag: str | None = None
    parallel: bool | tuple[str, ...] = False
    default_positions: int = 2048
    refused: tuple[str, ...] = ()


_LLAMA = Anatomy()
_NEOX = Anatomy(
    body="gpt_neox",
    embeddings="gpt_neox.embed_in",
    layers="gpt_neox.layers",
    final_norm="gpt_neox.final_layer_norm",
    attention="attention",
    o_proj="attention.dense",
    qkv=("attention.query_key_value",),
    fused="head by head: q, k, v of one head, then of the next",
    mlp=("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    parallel=("use_parallel_residual",),
)
_BLOOM = Anatomy(
    body="transformer",
    embeddings="transformer.word_embeddings",
    layers="transformer.h",
    final_norm="transformer.ln_f",
    attention="self_attention",
    residual=1,
    o_proj="self_attention.dense",
    qkv=("self_attention.query_key_value",),
    fused="head by head: q, k, v of one head, then of the next",
    mlp=("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    position="alibi",
    refused=("slow_but_exact",),
)
_GEMMA3 = Anatomy(embedding_scale="scalar_embed_scale")

ANATOMIES: dict[str, Anatomy] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma3_text": _GEMMA3,
    "gemma3": dataclasses.replace(
        _GEMMA3,
        body="model.language_model",
        embeddings="model.language_model.embed_tokens",
        layers="model.language_model.layers",
        final_norm="model.language_model.norm",
    ),
    "phi": Anatomy(
        final_norm="model.final_layernorm",
        o_proj="self_attn.dense",
        mlp=("mlp.fc1", "mlp.fc2"),
        parallel=True,
    ),
    "phi3": Anatomy(
        qkv=("self_attn.qkv_proj",),
        fused="all q, then all k, then all v; mlp.gate_up_proj: gate, then up",
        mlp=("mlp.gate_up_proj", "mlp.down_proj"),
    ),
    "gpt2": Anatomy(
        body="transformer",
        embeddings="transformer.wte",
        layers="transformer.h",
        final_norm="transformer.ln_f",
        attention="attn",
        o_proj="attn.c_proj",
        qkv=("attn.c_attn",),
        fused="all q, then all k, then all v (along the columns: its linears are stored transposed)",
        mlp=("mlp.c_fc", "mlp.c_proj"),
        position="learned",
    ),
    "opt": Anatomy(
        body="model.decoder",
        embeddings="model.decoder.embed_tokens",
        layers="model.decoder.layers",
        final_norm="model.decoder.final_layer_norm",
        project_out="model.decoder.project_out",
        o_proj="self_attn.out_proj",
        mlp=("fc1", "fc2"),
        position="learned",
    ),
    "bloom": _BLOOM,
    "falcon": dataclasses.replace(
        _BLOOM,
        residual=None,
        fused="group by group: the q heads of one key-value head, then its k, then its v",
        position="rope",
        alibi_flag="alibi",
        parallel=("parallel_attn", "new_decoder_architecture"),
        refused=(),
    ),
    "gpt_neox": _NEOX,
}


class LinearAt(NamedTuple):
    """A linear of the model; ``name`` is its path in ``model.named_modules()``."""

    name: str
    module: nn.Module
    d_in: int
    d_out: int


class BoundAnatomy:
    """An ``Anatomy`` and the model it fits; every path has been followed and checked.

    Args:
        model: A causal language model of transformers.
        anatomy: Paths for it.

    Attributes:
        n_layers: Blocks.
        n_heads: Query heads of a layer.
        head_dim: Width of a query head.
        d_model: Width of a token embedding, so of a soft token.
        vocab_size: Rows of the token embedding (some may belong to no token).
        max_positions: Length of the context in tokens; for ALiBi, what the model was trained on.
        position: How positions get in.
        parallel: Whether attention and feed-forward read the same input.
        embedding_scale: Factor between a row of the embedding's weight and the embedding of that token.
        logit_softcap: ``cap * tanh(logits / cap)`` is what the model returns, where this is not None.

    Raises:
        ModelError: A path leads nowhere, or the sizes do not fit together.
    """

    def __init__(self, model: Any, anatomy: Anatomy) -> None:
        self.model, self.anatomy = model, anatomy
        self.config = config = model.config.get_text_config()
        for flag in anatomy.refused:
            if getattr(config, flag, False):
                raise ModelError(
                    f"With {flag} this model does not call the modules that coldframe hooks into",
                    fix=f"Load it with {flag}=False.",
                )
        self.body = self._module(anatomy.body)
        self.embeddings = self._module(anatomy.embeddings)
        self.lm_head = self._module(anatomy.lm_head)
        self.final_norm = self._module(anatomy.final_norm, optional=True)
        out = anatomy.project_out
        self.project_out = None if out is None else self._module(out, optional=True)
        self.layers: nn.ModuleList = self._module(anatomy.layers)

        self.n_layers, self.n_heads = len(self.layers), int(config.num_attention_heads)
        self.head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // self.n_heads)
        self.vocab_size, self.d_model = map(int, self.embeddings.weight.shape)
        lengths = (getattr(config, name, None) for name in ("max_position_embeddings", "seq_length"))
        self.max_positions = int(next(filter(None, lengths), anatomy.default_positions))
        alibi = anatomy.alibi_flag is not None and getattr(config, anatomy.alibi_flag, False)
        self.position: Position = "alibi" if alibi else anatomy.position
        flags = anatomy.parallel
        self.parallel = flags if isinstance(flags, bool) else any(getattr(config, flag, False) for flag in flags)
        scale = anatomy.embedding_scale
        self.embedding_scale = 1.0 if scale is None else float(getattr(self.embeddings, scale))
        cap = getattr(config, "final_logit_softcapping", None)
        self.logit_softcap = None if cap is None else float(cap)

        layers = range(self.n_layers)
        self._linears: dict[str, list[LinearAt]] = {
            "attention": [self._linear(i, path) for i in layers for path in (*anatomy.qkv, anatomy.o_proj)],
            "mlp": [self._linear(i, path) for i in layers for path in anatomy.mlp],
        }
        for i in layers:
            self.attention(i)
            width = self._linear(i, anatomy.o_proj).d_in
            if width != self.n_heads * self.head_dim:
                problem = f"of layer {i} takes {width} features, not {self.n_heads} heads of {self.head_dim}"
                raise self._misfit(f"{anatomy.o_proj} {problem}")
        if _sizes(self.lm_head) != (self.d_model, self.vocab_size):
            raise self._misfit(f"{anatomy.lm_head} is not a linear from {self.d_model} to {self.vocab_size}")

    def layer(self, i: int) -> nn.Module:
        """Block ``i``."""
        return self.layers[i]

    def attention(self, i: int) -> nn.Module:
        """Attention module of block ``i``."""
        module: nn.Module = self._module(f"{self.anatomy.layers}.{i}.{self.anatomy.attention}")
        return module

    def o_proj(self, i: int) -> nn.Module:
        """Output projection of block ``i``'s attention; its input is ``[..., n_heads * head_dim]``."""
        return self._linear(i, self.anatomy.o_proj).module

    def after_layers(self, hidden: Tensor) -> Tensor:
        """What the body does after its last block: the final norm, and a projection where there is one.

        Shapes:
            hidden: ``[..., width of the blocks]`` -> ``[..., width that lm_head takes]``.
        """
        for module in (self.final_norm, self.project_out):
            hidden = hidden if module is None else module(hidden)
        return hidden

    def linears(self, kind: LinearKind = "all") -> list[LinearAt]:
        """Linears of all blocks, layer by layer.

        Args:
            kind: ``attention`` (input and output projections), ``mlp``, or ``all``.
        """
        if kind == "all":
            return [*self._linears["attention"], *self._linears["mlp"]]
        if kind not in self._linears:
            raise ConfigError(f"There are no linears called {kind!r}", fix=nearest(kind, ["all", *self._linears]))
        return list(self._linears[kind])

    def _linear(self, i: int, path: str) -> LinearAt:
        name = f"{self.anatomy.layers}.{i}.{path}"
        module = self._module(name)
        sizes = _sizes(module)
        if sizes is None:
            raise self._misfit(f"{name} is a {type(module).__name__}, not a linear")
        return LinearAt(name, module, *sizes)

    def _module(self, path: str, optional: bool = False) -> Any:
        try:
            module = functools.reduce(getattr, path.split("."), self.model)
        except AttributeError:
            raise self._misfit(f"It has no module {path}") from None
        if not isinstance(module, nn.Module) and not (optional and module is None):
            raise self._misfit(f"{path} is a {type(module).__name__}, not a module")
        return module

    def _misfit(self, problem: str) -> ModelError:
        kind = self.model.config.model_type
        return ModelError(
            f"The entry {kind!r} of ANATOMIES does not fit this {type(self.model).__name__}: {problem}",
            fix=f"Mend ANATOMIES[{kind!r}] in coldframe/frozen/anatomy.py. {_candidates(self.model)}",
        )


def anatomy_of(model: Any) -> BoundAnatomy:
    """The anatomy of a transformers causal language model, by its ``model_type``.

    Raises:
        ModelError: The architecture is unknown (the message says what to add and what the model offers), or
            its entry does not fit.
    """
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind not in ANATOMIES:
        raise ModelError(
            f"coldframe does not know the architecture of this {type(model).__name__}",
            got=f"model_type {kind!r}",
            expected=f"one of {', '.join(sorted(ANATOMIES))}",
            fix=f"Add ANATOMIES[{kind!r}] = Anatomy(...) in coldframe/frozen/anatomy.py, or from your own code before "
            f"loading. {_candidates(model)}",
        )
    return BoundAnatomy(model, ANATOMIES[kind])


def _sizes(module: Any) -> tuple[int, int] | None:
    """``(in, out)`` of a linear, plain or packed; Conv1D stores its weight transposed. None for other modules."""
    from transformers.pytorch_utils import Conv1D

    sizes = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if isinstance(sizes[0], int) and isinstance(sizes[1], int):
        return sizes[0], sizes[1]
    if isinstance(module, Conv1D):
        return int(module.weight.shape[0]), int(module.weight.shape[1])
    return None


def _candidates(model: Any) -> str:
    """What the fields of an ``Anatomy`` could be for this model, read off its module tree."""
    modules = dict(model.named_modules()) if isinstance(model, nn.Module) else {}
    stacks = [name for name, module in modules.items() if isinstance(module, nn.ModuleList)]
    outside = {n: m for n, m in modules.items() if not any(n.startswith(f"{stack}.") for stack in stacks)}
    blocks = [(f"{stack}.0.", name) for stack in stacks for name in modules if name.startswith(f"{stack}.0.")]
    linears = [(name.removeprefix(block), _sizes(modules[name])) for block, name in blocks]
    fields = {
        "layers": stacks,
        "embeddings": [name for name, module in outside.items() if isinstance(module, nn.Embedding)],
        "final_norm": [name for name, module in outside.items() if "norm" in type(module).__name__.lower()],
        "lm_head": [name for name, module in outside.items() if _sizes(module)],
        "body": [name for name in outside if any(stack.rpartition(".")[0] == name for stack in stacks)],
        "qkv, o_proj, mlp": [f"{path} {sizes}" for path, sizes in linears if sizes],
    }
    return "Candidates: " + "; ".join(f"{field}: {', '.join(names) or 'none'}" for field, names in fields.items()) + "."
