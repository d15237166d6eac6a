"""Artifacts on the Hugging Face hub: fetch one, send one."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Protocol

from coldframe.errors import ArtifactError, first_line

FILES = ("*.json", "*.safetensors", "*.jsonl", "README.md")


class Saves(Protocol):
    """What can be written as an artifact."""

    def save_pretrained(self, path: str | Path) -> None:
        """Write the folder."""
        ...


def download(repo_id: str) -> Path:
    """The local folder of an artifact on the hub; without a network, the copy that is there already.

    Only the files of an artifact are fetched; they are verified when they are read.
    """
    from huggingface_hub import snapshot_download

    try:
        try:
            return Path(snapshot_download(repo_id, allow_patterns=list(FILES)))
        except Exception as unreachable:
            if getattr(unreachable, "response", None) is not None:  # the hub answered: gated, private, not found
                raise
            return Path(snapshot_download(repo_id, allow_patterns=list(FILES), local_files_only=True))
    except Exception as error:  # the hub client lets errors of several HTTP libraries through
        raise ArtifactError(
            f"Cannot get the artifact {repo_id!r}: it is no local folder, and the hub says: {first_line(error)}",
            fix="Check the path or the name, the network, and for a private repository your token (`hf auth login`).",
        ) from error


def upload(pipeline: Saves, repo_id: str, *, private: bool = True, **options: Any) -> str:
    """Create the repository if need be and upload an artifact; returns the address of the commit.

    Args:
        pipeline: What to upload.
        repo_id: ``owner/name``.
        private: Whether nobody else may read the repository; one that is there already must be so.
        **options: Go to ``huggingface_hub.upload_folder`` (``commit_message``, ``revision``, ``token``).

    Raises:
        ArtifactError: The repository is public and was to be private, or the upload failed.
    """
    from huggingface_hub import HfApi, create_repo, upload_folder

    with tempfile.TemporaryDirectory() as folder:
        pipeline.save_pretrained(folder)
        try:
            create_repo(repo_id, private=private, token=options.get("token"), exist_ok=True)
            if private and not HfApi().repo_info(repo_id, token=options.get("token")).private:
                raise ArtifactError(
                    f"The repository {repo_id!r} is public: nothing was uploaded",
                    fix="If everybody may read the artifact, call push_to_hub(..., private=False).",
                )
            return str(upload_folder(repo_id=repo_id, folder_path=folder, **options))
        except ArtifactError:
            raise
        except Exception as error:  # as above
            raise ArtifactError(
                f"Cannot upload to {repo_id!r}: {first_line(error)}",
                fix="Check the network and your token (`hf auth login`); the name must be owner/name.",
            ) from error
