"""Where a model runs and in which numbers, from what people write: names or torch's own objects."""

from __future__ import annotations

import os

import torch

from coldframe.errors import ConfigError, first_line
from coldframe.progress import several_processes


def device_of(device: str | torch.device) -> torch.device:
    """A device that is there.

    Args:
        device: ``"auto"`` takes a GPU if there is one: CUDA (of several processes each its own), else Apple's MPS. Or
            its name, or a ``torch.device``.

    Raises:
        ConfigError: The name is none, or there is no such device.

    >>> device_of("cpu")
    device(type='cpu')
    """
    if device == "auto":
        own = f"cuda:{os.environ['LOCAL_RANK']}" if several_processes() and "LOCAL_RANK" in os.environ else "cuda"
        device = own if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        there += ["mps"] if torch.backends.mps.is_available() else []
        raise ConfigError(
            f"There is no device {str(device)!r} ({first_line(error)})", expected=", ".join(there), fix="Or pass auto."
        ) from error
    return chosen


def dtype_of(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """A type of floating-point numbers.

    Args:
        dtype: ``"auto"`` takes bfloat16 where the device has it, and float32 elsewhere. Or its name, or a
            ``torch.dtype``.
        device: Where the model runs.

    Raises:
        ConfigError: It is none.

    >>> dtype_of("float32", torch.device("cpu")), dtype_of(torch.float16, torch.device("cpu"))
    (torch.float32, torch.float16)
    """
    if dtype == "auto":
        return torch.bfloat16 if _has_bfloat16(device) else torch.float32
    chosen = dtype if isinstance(dtype, torch.dtype) else getattr(torch, str(dtype).removeprefix("torch."), None)
    if not isinstance(chosen, torch.dtype) or not chosen.is_floating_point:
        raise ConfigError("Unknown dtype", got=dtype, expected="auto, bfloat16, float16 or float32")
    return chosen


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    cpu = device.type == "cpu"
    return cpu and bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
