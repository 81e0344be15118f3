"""Fixtures of the training tests. Nothing here or in the tests reaches a network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Read by the libraries when they are imported, which collecting the tests of this folder does.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TQDM_DISABLE="1")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a random tiny Llama; not to be changed by a test."""
    from tests.training.tiny import build_model

    return build_model(tmp_path_factory.mktemp("models") / "base")
