"""Checkpoints by their Hub name: looked up in the local cache, never downloaded."""

from __future__ import annotations

from pathlib import Path

from lens_bench.errors import CheckpointError


def cached_folder(repository: str, what: str, argument: str) -> Path:
    """Folder of a repository's snapshot in the local Hub cache: that of branch ``main``, else the only one.

    Args:
        repository: ``owner/name``.
        what: What the weights are, for the message.
        argument: The model argument that names a folder instead, for the hint.

    Raises:
        CheckpointError: It is not there, and the hint says how to get it; or there are several, and none is ``main``.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.file_download import repo_folder_name

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        cache = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")
        # Copied caches, and downloads of one revision, have snapshots that no branch points to.
        found = sorted(path for path in cache.glob("snapshots/*") if path.is_dir())
        if len(found) == 1:
            return found[0]
        if found:
            raise CheckpointError(
                f"{len(found)} snapshots of {repository} are in the local Hub cache, and refs/main names none of them",
                f"name one: --model-arg {argument}={found[-1]}",
            ) from None
        raise CheckpointError(
            f"not in the local Hub cache: {what} ({repository})",
            f"fetch it with `hf download {repository}`, or name a folder: --model-arg {argument}=FOLDER",
        ) from None
