"""Where the sandbox lies, and how a new world of it becomes a project of its own."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path

from data_catalog.errors import ConfigError

SANDBOX = Path(__file__).resolve().parent.parent / "examples" / "sandbox"
CONFIG_NAME = "tutelage.yaml"


def write_project(seed: int, out: Path) -> Path:
    """Write the world of `seed` into `out` and return its configuration, which uses the sandbox's own models.

    Raises:
        ConfigError: `out` holds files, or this installation came without the repository's examples.
    """
    if not (SANDBOX / "world.py").is_file():
        raise ConfigError(
            f"the sandbox is not at {SANDBOX}",
            valid="a checkout of the repository, installed with `make setup` or `pip install -e .`",
        )
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty", valid="a new or empty folder", next_step="choose another --out")
    spec = importlib.util.spec_from_file_location("sandbox_world", SANDBOX / "world.py")
    assert spec is not None, "the file is there"
    assert spec.loader is not None, "a .py file has a loader"
    world = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = world  # dataclasses look their module up there
    spec.loader.exec_module(world)
    world.write_world(seed, out)
    text = (SANDBOX / CONFIG_NAME).read_text(encoding="utf-8")
    shared = Path(os.path.relpath(SANDBOX, out.resolve())).as_posix()
    text = re.sub(r"(?<=[ \[])(models|templates)/", rf"{shared}/\1/", text)
    config = out / CONFIG_NAME
    config.write_text(text.replace("project: sandbox", f"project: sandbox-{seed}"), encoding="utf-8")
    return config
