"""The paths of a configuration: what is relative in the file becomes absolute."""

from __future__ import annotations

from pathlib import Path

from evaluation.scorers import Scorer
from evaluation.scorers.judged import JudgeScorer
from evaluation.shipped import shipped_path
from evaluation.specs import SuiteSpec
from flows.config import Config, StageConfig
from generators.pairs.specs import PairSpec
from generators.specs import CurateSpec, GenerateSpec, RecipeSpec, TeacherSpec

TEMPLATE_SUFFIX = ".jinja"
RECIPE_SUFFIX = ".py"
ROWS_SUFFIX = ".jsonl"
CHECKS_BY_TEACHER = ("judge", "round_trip")
SELECT_TEMPLATES = ("complexity_template", "quality_template")
LABELLED = ("labelled", "held_out")
"""The files of a `classify` stage."""
UNREAD = frozenset({"recipes", "part", "replay_share"})
"""What such a stage has no use for."""


def pair_templates(spec: PairSpec) -> list[str]:
    """Return the keys of a recipe of pairs that name a template."""
    return [key for key in ("template", "answer_template") if key in type(spec).model_fields]


def absolute(config: Config, base: Path) -> Config:
    """Return the configuration with every path made absolute."""
    return _Paths(base).config(config)


class _Paths:
    """Makes the paths of each section absolute; `base` is the configuration's folder."""

    def __init__(self, base: Path) -> None:
        self._base = base

    def config(self, config: Config) -> Config:
        return config.model_copy(
            update={
                "generate": self._generate(config.generate),
                "curate": self._curate(config.curate),
                "home": self._path(config.home),
                "documents": config.documents.model_copy(
                    update={"paths": tuple(map(self._path, config.documents.paths))}
                ),
                "teacher": self._served(config.teacher),
                "judges": {name: self._served(spec) for name, spec in config.judges.items()},
                "stages": tuple(map(self._stage, config.stages)),
                "student": config.student.model_copy(update={"model": self._path(config.student.model)}),
                "replay": self._path(config.replay) if config.replay else None,
                "suites": {name: self._suite(suite) for name, suite in config.suites.items()},
            }
        )

    def _path(self, value: Path) -> Path:
        return (self._base / value.expanduser()).resolve()

    def _named(self, value: str, suffix: str) -> str:
        """Return a name as it is, and what ends like a file as its path."""
        return str(self._path(Path(value))) if value.endswith(suffix) else value

    def _template(self, value: str) -> str:
        return self._named(value, TEMPLATE_SUFFIX)

    def _served(self, spec: TeacherSpec) -> TeacherSpec:
        directory = self._path(Path(spec.model))
        managed = spec.base_url is None and directory.is_dir()
        return spec.model_copy(update={"model": str(directory)}) if managed else spec

    def _generate(self, spec: GenerateSpec) -> GenerateSpec:
        recipes = tuple(map(self._recipe, spec.recipes))
        return spec.model_copy(update={"recipes": recipes, "targets": tuple(map(self._path, spec.targets))})

    def _recipe(self, spec: RecipeSpec) -> RecipeSpec:
        shots = spec.shots_from
        return spec.model_copy(
            update={
                "recipe": self._named(spec.recipe, RECIPE_SUFFIX),
                "templates": tuple(map(self._template, spec.templates)),
                "first_templates": tuple(map(self._template, spec.first_templates)),
                "shots_from": self._named(shots, ROWS_SUFFIX) if shots is not None else None,
                "seeds": self._path(spec.seeds) if spec.seeds is not None else None,
            }
        )

    def _curate(self, spec: CurateSpec) -> CurateSpec:
        changed: dict[str, object] = {
            name: check.model_copy(update={"template": self._template(check.template)})
            for name in CHECKS_BY_TEACHER
            if (check := getattr(spec, name)) is not None
        }
        if spec.reward is not None:
            changed["reward"] = spec.reward.model_copy(update={"model": self._path(spec.reward.model)})
        if spec.select is not None:
            templates = {key: self._template(getattr(spec.select, key)) for key in SELECT_TEMPLATES}
            changed["select"] = spec.select.model_copy(update=templates)
        return spec.model_copy(update=changed)

    def _stage(self, spec: StageConfig) -> StageConfig:
        pairs = tuple(
            entry.model_copy(update={key: self._template(getattr(entry, key)) for key in pair_templates(entry)})
            for entry in spec.data.pairs
        )
        files = {name: self._path(value) for name in LABELLED if (value := getattr(spec.data, name)) is not None}
        return spec.model_copy(update={"data": spec.data.model_copy(update={"pairs": pairs, **files})})

    def _suite(self, spec: SuiteSpec) -> SuiteSpec:
        return spec.model_copy(
            update={
                "path": shipped_path(spec.path) or self._path(spec.path),
                "shots_from": self._path(spec.shots_from) if spec.shots_from is not None else None,
                "scorer": self._scorer(spec.scorer),
            }
        )

    def _scorer(self, spec: Scorer) -> Scorer:
        if not isinstance(spec, JudgeScorer):
            return spec
        human = self._path(spec.human) if spec.human is not None else None
        return spec.model_copy(update={"template": self._template(spec.template), "human": human})
