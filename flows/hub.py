"""Putting an export on a Hugging Face hub: the public one, or the one that HF_ENDPOINT names."""

from __future__ import annotations

import os
from pathlib import Path

from data_catalog.errors import ConfigError, MachineError, MissingDependency


def push(directory: Path, repository: str, *, message: str) -> str:
    """Upload a directory as one commit and return its address. A repository that is not there is made, private.

    Raises:
        MissingDependency: `huggingface_hub` is not installed.
        ConfigError: `repository` is no `owner/name`.
        MachineError: the hub refused it or can't be reached; the directory stays.
    """
    try:
        import httpx
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled
    except ImportError as error:
        raise MissingDependency(
            f"--push needs huggingface_hub: {error}", next_step="pip install huggingface_hub"
        ) from error
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, folder_path=directory, commit_message=message)
    except HFValidationError as error:
        raise ConfigError(f"--push {repository}: {error}", valid="owner/name") from error
    except OfflineModeIsEnabled as error:
        raise MachineError(
            "HF_HUB_OFFLINE is set, so nothing can be pushed", next_step="unset HF_HUB_OFFLINE, or leave out --push"
        ) from error
    except (httpx.HTTPError, OSError, ValueError) as error:  # ValueError: an answer that no hub gives
        raise MachineError(
            f"{api.endpoint} did not take {repository}: {error}",
            valid="a token that may write there: HF_TOKEN, or `hf auth login`",
            next_step=f"{directory} is complete; upload it later: hf upload {repository} {directory}",
        ) from error
    return str(commit.commit_url)
