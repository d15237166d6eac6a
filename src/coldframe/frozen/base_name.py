"""What an export says of the model that it belongs to, so that other libraries find it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coldframe.frozen.model import FrozenLM


def base_of(lm: FrozenLM) -> dict[str, Any]:
    """What opens the base model again with transformers: ``base_model_name_or_path``, and a hub model's ``revision``.

    The short names of coldframe mean nothing to other libraries.
    """
    folder = Path(str(getattr(lm.model.config, "_name_or_path", "")) or "-")
    if lm.provenance.get("source") != "hub" and folder.is_dir():
        return {"base_model_name_or_path": str(folder.resolve()), "revision": None}
    return {"base_model_name_or_path": str(lm.provenance["name"]), "revision": lm.provenance.get("revision")}


def about_base(lm: FrozenLM) -> str:
    """One sentence on what the base model of an export is."""
    base = base_of(lm)
    name, revision = base["base_model_name_or_path"], base["revision"]
    if lm.provenance.get("source") == "hub":
        return f"The base model is {name} on the hub" + (f", at revision {revision}." if revision else ".")
    if Path(name).is_dir():
        return f"The base model is the folder {name}: a server has to be started with this very path."
    return f"The base model was made in memory as {name}: write where it is saved into base_model_name_or_path."
