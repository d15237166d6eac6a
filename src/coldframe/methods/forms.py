"""The forms in which a method leaves for other libraries and servers."""

from __future__ import annotations

from typing import Literal, TypeAlias

Form: TypeAlias = Literal["peft", "gguf", "sglang", "safetensors", "checkpoint", "prompts"]
