"""A configuration file with some settings of a stage replaced; everything else in it, comments too, stays as it is."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from data_catalog.errors import ConfigError
from flows.advising.words import flow
from flows.advising.written import check_target, write
from flows.config import Config
from flows.config_file import load_config
from flows.sweeping.space import Value, Values
from training.specs import TrainSpec


def check_place(config: Path, target: Path, *, overwrite: bool) -> None:
    """Refuse a place that the changed configuration can't be written to, before anything is trained.

    Raises:
        ConfigError: there is a file and `overwrite` is not set, or it is another folder, where relative paths would
            mean something else.
    """
    check_target(target, overwrite=overwrite)
    if target.resolve().parent != config.resolve().parent:
        raise ConfigError(
            f"{target} lies in another folder than {config}: the relative paths in it would mean something else",
            valid=f"a file in {config.resolve().parent}",
        )


def write_changed(
    config: Path, loaded: Config, index: int, train: TrainSpec, values: Values, target: Path, *, overwrite: bool
) -> None:
    """Write `config` with a stage's settings replaced to `target`.

    Args:
        config: the file.
        loaded: what it says.
        index: of the stage.
        train: the stage's settings with the values, which the written file must say.
        values: by name below `train`.
        target: the file to write, in the same folder.
        overwrite: whether it may replace a file.

    Raises:
        ConfigError: the values can't be put into the file as it is written, for example because an alias stands there.
        MachineError: it can't be written.
    """
    text = config.read_text(encoding="utf-8")
    for name, value in sorted(values.items(), key=lambda entry: entry[0].count(".")):
        text = _replaced(text, index, name.split("."), value, loaded.stages[index].train)
    with tempfile.NamedTemporaryFile("w", dir=target.resolve().parent, suffix=".yaml", encoding="utf-8") as tried:
        tried.write(text)
        tried.flush()
        said = load_config(Path(tried.name))
    stage = loaded.stages[index].model_copy(update={"train": train})
    if said != loaded.model_copy(update={"stages": (*loaded.stages[:index], stage, *loaded.stages[index + 1 :])}):
        raise ConfigError(
            f"the values can't be put into {config} as it is written (does an alias stand there?)",
            next_step="put in what was printed by hand",
        )
    write(target, text, overwrite=overwrite)


def _replaced(text: str, index: int, path: Sequence[str], value: Value, train: TrainSpec) -> str:
    """Return the file's text with one setting of a stage replaced or added."""
    section = _train_node(text, index)
    for place, part in enumerate(path):
        below = _entry(section, part)
        rest = path[place + 1 :]
        if below is None:
            return _added(text, section, part, _nested(rest, value, train))
        if not rest or not isinstance(below, yaml.MappingNode):
            name = below.value if isinstance(below, yaml.ScalarNode) else ""
            new = _nested(rest, value, train, name)
            return text[: below.start_mark.index] + flow(new) + text[_end(below) :]
        section = below
    raise AssertionError("the last part of the path returns")


def _nested(rest: Sequence[str], value: Value, train: TrainSpec, name: str = "") -> Any:
    """Return a value, or the section with it: `method.rank` needs the method's name beside it."""
    return {"name": name or train.method.name, ".".join(rest): value} if rest else value


def _train_node(text: str, index: int) -> yaml.MappingNode:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    stages = _entry(root, "stages")
    assert isinstance(stages, yaml.SequenceNode), "the file was read as a configuration"
    train = _entry(stages.value[index], "train")
    assert isinstance(train, yaml.MappingNode), "the file was read as a configuration"
    return train


def _entry(node: yaml.Node | None, key: str) -> yaml.Node | None:
    assert isinstance(node, yaml.MappingNode), "the file was read as a configuration"
    return next((value for name, value in node.value if name.value == key), None)


def _end(node: yaml.Node) -> int:
    """Return where a node's text ends: of a block, where its last entry does, not where the next thing begins."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _added(text: str, section: yaml.MappingNode, key: str, value: Any) -> str:
    """Return the text with an entry more in a section: the last where it is in braces, the first where not."""
    entry = f"{key}: {flow(value)}"
    if section.flow_style:
        place = section.end_mark.index - 1
        before = text[:place].rstrip()
        return f"{before}{'' if before.endswith((',', '{')) else ','} {entry}{text[place:]}"
    place = section.start_mark.index
    return text[:place] + entry + "\n" + " " * section.start_mark.column + text[place:]
