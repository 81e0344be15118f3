"""From a YAML file to a `Config`: every error at once, each with file, line, key, and the key that was probably meant.

Relative paths in the file are relative to the file.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from data_catalog.errors import ConfigError
from evaluation.scorers.judged import TEACHER, JudgeScorer
from evaluation.scorers.lm_eval import LmEval
from flows.config import Config, StageConfig
from flows.config_paths import (
    CHECKS_BY_TEACHER,
    LABELLED,
    SELECT_TEMPLATES,
    TEMPLATE_SUFFIX,
    UNREAD,
    absolute,
    pair_templates,
)
from flows.default_gates import with_default_gates
from generators.pairs.specs import STUDENT, asked_of
from generators.recipes import find_recipe, recipes_of
from generators.specs import TeacherSpec
from generators.target import load_target
from training.compatibility import adapter_of, follows, is_reward_model

BY_MEANING = ("semantic_duplicate", "semantic_contamination")
"""The keys of `curate` whose checks need vectors; `select` takes them where there are any."""

Location = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """One error in the file. Lines and columns count from 1."""

    line: int
    column: int
    key: str
    text: str

    def render(self, path: Path) -> str:
        """Return the problem as one line: place, key, what is wrong."""
        place = f"{path}:{self.line}:{self.column}"
        return f"{place}  {self.key}: {self.text}" if self.key else f"{place}  {self.text}"


@dataclass
class _Tree:
    """Plain values of a YAML file, with the place where each one stands."""

    value: Any = None
    marks: dict[Location, tuple[int, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def place(self, location: Location) -> tuple[int, int]:
        """Return the line and column of `location`, or of its nearest ancestor that stands in the file."""
        while location and location not in self.marks:
            location = location[:-1]
        return self.marks.get(location, (1, 1))

    def problem(self, location: Location, text: str) -> None:
        line, column = self.place(location)
        self.problems.append(Problem(line, column, dotted(location), text))


def dotted(location: Location) -> str:
    """Return `stages[0].train.learning_rate` for `("stages", 0, "train", "learning_rate")`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def load_config(path: Path) -> Config:
    """Read and check a configuration file.

    Raises:
        ConfigError: the file is missing or not YAML, or anything in it is wrong; the message lists every problem.
    """
    tree = _read(path)
    config: Config | None = None
    try:
        config = Config.model_validate(tree.value)
    except ValidationError as error:
        details = error.errors(include_url=False)
        for detail in details:
            # A list whose entries were refused counts as too short; the entries' own errors say it better.
            deeper = any(other["loc"][: len(detail["loc"])] == detail["loc"] for other in details if other != detail)
            if not (detail["type"] == "too_short" and deeper):
                _explain(tree, detail)
    if config is not None:
        config = absolute(with_default_gates(config), path.resolve().parent)
        _check(config, tree)
    if tree.problems or config is None:
        lines = [problem.render(path) for problem in sorted(set(tree.problems), key=lambda p: (p.line, p.column))]
        count = f"{len(lines)} problem{'s' if len(lines) > 1 else ''}"
        raise ConfigError(
            f"{count} in {path}:\n" + "\n".join(f"  {line}" for line in lines),
            next_step="edit the lines above; docs/configuration.md lists every key",
        )
    return config


def _read(path: Path) -> _Tree:
    if not path.is_file():
        raise ConfigError(
            f"no configuration file at {path}",
            valid="a YAML file; a folder is not one",
            next_step="tutelage run examples/sandbox/tutelage.yaml shows a working one",
        )
    tree = _Tree()
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start})", valid="YAML in UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{place}  not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    tree.value = _plain(node, (), tree) if node is not None else {}
    return tree


def _plain(node: yaml.Node, location: Location, tree: _Tree) -> Any:
    tree.marks.setdefault(location, (node.start_mark.line + 1, node.start_mark.column + 1))
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            here = (*location, key)
            mark = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if key in values:
                first = tree.marks[here][0]
                tree.problems.append(Problem(*mark, dotted(here), f"given twice; the first is on line {first}"))
                continue
            tree.marks[here] = mark
            values[key] = _plain(value_node, here, tree)
        return values
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child, (*location, index), tree) for index, child in enumerate(node.value)]
    constructor = yaml.SafeLoader("")
    return constructor.construct_object(node, deep=True)


def _explain(tree: _Tree, detail: Any) -> None:
    """Turn one pydantic error into a problem with its place in the file."""
    location = _in_file(tree.value, detail["loc"])
    if detail["type"] == "extra_forbidden":
        name = str(location[-1])
        valid = sorted({key for model in _models_at(Config, location[:-1], tree.value) for key in model.model_fields})
        near = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
        hint = f"did you mean `{near[0]}`?" if near else f"valid: {', '.join(valid)}"
        tree.problem(location, f"unknown key; {hint}")
    elif detail["type"] == "missing":
        tree.problem(location, "is missing")
    else:
        got = detail.get("input")
        shown = f" (got {got!r})" if isinstance(got, str | int | float | bool) or got is None else ""
        message = detail["msg"].removeprefix("Value error, ")
        tree.problem(location, f"{message[0].lower()}{message[1:]}{shown}")


def _in_file(value: Any, loc: Sequence[str | int]) -> Location:
    """Drop the parts of a pydantic location that aren't in the file: union tags and validator names."""
    kept: list[str | int] = []
    for position, part in enumerate(loc):
        last = position == len(loc) - 1
        if isinstance(value, dict) and (part in value or last):
            kept.append(part)
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            kept.append(part)
            value = value[part]
    return tuple(kept)


def _models_at(annotation: Any, location: Location, value: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that may stand at `location`; a tagged union is narrowed by the tag in the file."""
    for model in _models_of(annotation):
        if not location:
            if _tags_agree(model, value):
                yield model
            continue
        head, rest = location[0], location[1:]
        if isinstance(value, dict) and isinstance(head, str) and head in model.model_fields and head in value:
            yield from _descend(model.model_fields[head].annotation, rest, value[head])


def _descend(annotation: Any, location: Location, value: Any) -> Iterator[type[BaseModel]]:
    if location and isinstance(value, list | dict) and not any(True for _ in _models_of(annotation, direct=True)):
        key = location[0]
        child = value[key] if isinstance(value, dict) or isinstance(key, int) else None  # type: ignore[index]
        for argument in get_args(annotation):
            yield from _descend(argument, location[1:], child)
    else:
        yield from _models_at(annotation, location, value)


def _models_of(annotation: Any, *, direct: bool = False) -> Iterator[type[BaseModel]]:
    origin = get_origin(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif origin is Annotated:
        yield from _models_of(get_args(annotation)[0], direct=direct)
    elif origin in (Union, types.UnionType):
        for argument in get_args(annotation):
            yield from _models_of(argument, direct=direct)


def _tags_agree(model: type[BaseModel], value: Any) -> bool:
    for tag in ("stage", "name"):
        info = model.model_fields.get(tag)
        if info is not None and isinstance(value, dict) and tag in value and isinstance(info.default, str):
            return bool(value[tag] == info.default)
    return True


def _check(config: Config, tree: _Tree) -> None:
    """Check what no single field can: files that must exist, names that must be defined elsewhere in the file."""
    for index, source in enumerate(config.documents.paths):
        if not source.exists():
            tree.problem(("documents", "paths", index), f"nothing at {source}")
    if not (config.student.model / "config.json").is_file():
        tree.problem(("student", "model"), f"no model directory at {config.student.model} (it has no config.json)")
    if config.replay is not None and not config.replay.is_file():
        tree.problem(("replay",), f"no file at {config.replay}")
    for name, suite in config.suites.items():
        of_task = isinstance(suite.scorer, LmEval)
        if not (suite.path.is_dir() if of_task else suite.path.exists()):
            kind = "directory" if of_task else "file"
            tree.problem(("suites", name, "path"), f"no {kind} at {suite.path}")
        if suite.shots_from is not None and not suite.shots_from.exists():
            tree.problem(("suites", name, "shots_from"), f"no file at {suite.shots_from}")
    _check_teacher(config, tree)
    _check_embedder(config, tree)
    _check_judges(config, tree)
    _check_pairs(config, tree)
    _check_recipes(config, tree)
    _check_targets(config, tree)
    _check_templates(config, tree)
    names: set[str] = set()
    for index, stage in enumerate(config.stages):
        where: Location = ("stages", index)
        if stage.name in names:
            tree.problem((*where, "name"), f"a stage named {stage.name!r} stands above; names must differ")
        names.add(stage.name)
        if stage.data.replay_share > 0 and config.replay is None:
            tree.problem((*where, "data", "replay_share"), "needs the top-level `replay` file, which is not given")
        _check_gate(config, stage, where, tree)
    _check_methods(config, tree)
    _check_rewards(config, tree)
    _check_reward_filter(config, tree)
    _check_labelled(config, tree)


def _check_methods(config: Config, tree: _Tree) -> None:
    """Each stage must be able to start from what the one before it leaves."""
    carried = adapter_of(config.student.model)
    for index, stage in enumerate(config.stages):
        method = stage.train.method
        refused = follows(carried, method)
        if refused is not None:
            tree.problem(("stages", index, "train", "method"), refused.sentence)
        if stage.train.stage != "reward":
            carried = method


def _check_rewards(config: Config, tree: _Tree) -> None:
    """A judged stage needs the reward model of a stage before it; a reward model alone is no student."""
    kinds = [stage.train.stage for stage in config.stages]
    for index, stage in enumerate(config.stages):
        where: Location = ("stages", index)
        if stage.train.judged and "reward" not in kinds[:index]:
            instead = "" if stage.train.stage == "ppo" else ", or another `reward`, such as token_f1"
            tree.problem(
                (*where, "train", "stage"),
                f"{stage.train.stage} needs a stage with `train: {{stage: reward}}` before it{instead}",
            )
        if set(kinds) == {"reward"}:
            tree.problem(
                (*where, "train", "stage"),
                "a reward model answers nothing and is no version; add a stage that trains the student, such as sft",
            )
        if stage.train.stage == "reward" and stage.gate:
            tree.problem((*where, "gate"), "a reward model answers no suite; put the gate behind the stage it judges")


def _check_reward_filter(config: Config, tree: _Tree) -> None:
    """Its model must be one: a student's weights have no rewards to give."""
    spec = config.curate.reward
    if spec is None:
        return
    where: Location = ("curate", "reward", "model")
    if not (spec.model / "config.json").is_file():
        tree.problem(where, f"no model directory at {spec.model} (it has no config.json)")
    elif not is_reward_model(spec.model):
        tree.problem(where, f"the model in {spec.model} is no reward model: a stage with `train: {{stage: reward}}` is")


def _check_labelled(config: Config, tree: _Tree) -> None:
    """A `classify` stage needs its labelled texts, and no other stage reads any."""
    for index, stage in enumerate(config.stages):
        where: Location = ("stages", index, "data")
        classifies = stage.train.stage == "classify"
        if classifies and stage.data.labelled is None:
            tree.problem(where, "classify needs `labelled`: a file of rows with `text` and `label`")
        for name in sorted(UNREAD & stage.data.model_fields_set) if classifies else ():
            tree.problem((*where, name), "a stage of kind classify trains on `labelled` alone and reads none of this")
        for name in LABELLED:
            path = getattr(stage.data, name)
            if path is not None and not classifies:
                tree.problem((*where, name), f"only a stage of kind classify reads it, and this is {stage.train.stage}")
            elif path is not None and not path.is_file():
                tree.problem((*where, name), f"no file at {path}")


def _check_gate(config: Config, stage: StageConfig, where: Location, tree: _Tree) -> None:
    for index, rule in enumerate(stage.gate):
        if rule.suite not in config.suites:
            valid = ", ".join(config.suites) or "none defined"
            tree.problem((*where, "gate", index, "suite"), f"no suite named {rule.suite!r}; suites: {valid}")


def _check_teacher(config: Config, tree: _Tree) -> None:
    named: dict[Location, TeacherSpec] = {("teacher",): config.teacher}
    named |= {("judges", name): spec for name, spec in config.judges.items()}
    for where, spec in named.items():
        looks_like_path = spec.model.startswith((".", "/", "~")) or spec.model.count("/") > 1
        if spec.base_url is None and looks_like_path and not Path(spec.model).is_dir():
            tree.problem((*where, "model"), f"no model directory at {spec.model}")
    for name, who in ((TEACHER, "the teacher"), (STUDENT, "the student")):
        if name in config.judges:
            tree.problem(("judges", name), f"`{name}` is {who} itself; give this one another name")


def _check_embedder(config: Config, tree: _Tree) -> None:
    """Who compares meanings needs vectors, and vectors are of use to nobody else."""
    wanting = [name for name in BY_MEANING if getattr(config.curate, name) is not None]
    if config.embedder is None:
        for name in wanting:
            tree.problem(("curate", name), "needs the top-level section `embedder`, which is not given")
    elif not wanting and config.curate.select is None:
        keys = ", ".join((*BY_MEANING, "select"))
        tree.problem(("embedder",), f"nothing asks for vectors; set one of {keys} under `curate`")


def _check_judges(config: Config, tree: _Tree) -> None:
    for name, suite in config.suites.items():
        scorer, where = suite.scorer, ("suites", name, "scorer")
        if not isinstance(scorer, JudgeScorer):
            continue
        known = (TEACHER, *config.judges)
        if scorer.judge not in known:
            tree.problem((*where, "judge"), f"no judge named {scorer.judge!r}; there are: {', '.join(known)}")
        if scorer.template.endswith(TEMPLATE_SUFFIX) and not Path(scorer.template).is_file():
            tree.problem((*where, "template"), f"no template at {scorer.template}")
        if scorer.human is not None and not scorer.human.is_file():
            tree.problem((*where, "human"), f"no file at {scorer.human}")


def _check_pairs(config: Config, tree: _Tree) -> None:
    """Who answers or rates for the pairs of a stage must be there."""
    served = {TEACHER: config.teacher, **config.judges}
    for index, stage in enumerate(config.stages):
        for place, spec in enumerate(stage.data.pairs):
            where: Location = ("stages", index, "data", "pairs", place)
            for name in asked_of(spec):
                if name not in served:
                    tree.problem(where, f"nobody is named {name!r}; there are: {', '.join((STUDENT, *served))}")
            models = [served[name].model for name in asked_of(spec) if name in served]
            if spec.name == "delta" and len(set(models)) < len(models):
                tree.problem(where, f"both answers would be of the model {models[0]!r}, by whose name answers are kept")


def _check_recipes(config: Config, tree: _Tree) -> None:
    """Each recipe must be one of the product's, or a file that can be imported; its examples must be there."""
    for index, spec in enumerate(config.generate.recipes):
        try:
            recipes_of([*config.generate.recipes[:index], spec])
        except ConfigError as error:
            tree.problem(("generate", "recipes", index, "recipe"), " ".join(str(error).split()))
        if (spec.shots_from or "").endswith(".jsonl") and not Path(spec.shots_from or "").is_file():
            tree.problem(("generate", "recipes", index, "shots_from"), f"no file at {spec.shots_from}")
        if spec.seeds is not None and not spec.seeds.is_file():
            tree.problem(("generate", "recipes", index, "seeds"), f"no file at {spec.seeds}")


def _check_targets(config: Config, tree: _Tree) -> None:
    """Each target must be one, of recipes that are asked here, and not greedily."""
    for index, path in enumerate(config.generate.targets):
        where: Location = ("generate", "targets", index)
        try:
            target = load_target(path)
            asked = {find_recipe(spec.recipe).name for spec in config.generate.recipes if spec.temperature > 0}
        except ConfigError as error:
            tree.problem(where, " ".join(str(error).split()))
            continue
        for entry in target.recipes:
            if entry.recipe not in asked:
                tree.problem(where, f"no recipe {entry.recipe!r} with a temperature above 0 under `generate.recipes`")


def _check_templates(config: Config, tree: _Tree) -> None:
    named: list[tuple[Location, str]] = []
    for index, recipe in enumerate(config.generate.recipes):
        for key in ("templates", "first_templates"):
            for position, template in enumerate(getattr(recipe, key)):
                named.append((("generate", "recipes", index, key, position), template))
    for name in CHECKS_BY_TEACHER:
        check = getattr(config.curate, name)
        if check is not None:
            named.append((("curate", name, "template"), check.template))
    if config.curate.select is not None:
        for key in SELECT_TEMPLATES:
            named.append((("curate", "select", key), getattr(config.curate.select, key)))
    for index, stage in enumerate(config.stages):
        for place, spec in enumerate(stage.data.pairs):
            for key in pair_templates(spec):
                named.append((("stages", index, "data", "pairs", place, key), getattr(spec, key)))
    for where, template in named:
        if template.endswith(TEMPLATE_SUFFIX) and not Path(template).is_file():
            tree.problem(where, f"no template at {template}")
