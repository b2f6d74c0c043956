"""Checkpoints by their Hub name: looked up in the local cache, never downloaded."""

from __future__ import annotations

from pathlib import Path

from lens_bench.errors import CheckpointError


def cached_folder(repository: str, what: str, argument: str) -> Path:
    """Folder of a repository's newest snapshot in the local Hub cache.

    Args:
        repository: ``owner/name``.
        what: What the weights are, for the message.
        argument: The model argument that names a folder instead, for the hint.

    Raises:
        CheckpointError: It is not there; the hint says how to get it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        raise CheckpointError(
            f"not in the local Hub cache: {what} ({repository})",
            f"fetch it with `hf download {repository}`, or name a folder: --model-arg {argument}=FOLDER",
        ) from None
