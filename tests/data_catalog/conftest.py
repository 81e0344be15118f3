"""Catalogues to work on: made once, then copied, since creating one takes longer than most tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data_catalog.catalogue import Catalogue


@pytest.fixture(scope="session")
def _empty_catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Catalogue(tmp_path_factory.mktemp("empty")).path


@pytest.fixture
def open_catalogue(_empty_catalogue: Path) -> Callable[[Path], Catalogue]:
    """Return a function that opens an empty catalogue in a directory, or the one that is there."""

    def open_in(home: Path) -> Catalogue:
        home.mkdir(parents=True, exist_ok=True)
        if not (home / _empty_catalogue.name).exists():
            shutil.copy(_empty_catalogue, home)
        return Catalogue(home, wait=20)

    return open_in


@pytest.fixture
def catalogue(tmp_path: Path, open_catalogue: Callable[[Path], Catalogue]) -> Catalogue:
    return open_catalogue(tmp_path / "home")
