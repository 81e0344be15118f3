"""The paths of a configuration: what is relative in the file becomes absolute."""

from __future__ import annotations

from pathlib import Path

from evaluation.scorers import Scorer
from evaluation.scorers.judged import JudgeScorer
from evaluation.shipped import shipped_path
from flows.config import Config, StageConfig
from generators.pairs.specs import PairSpec
from generators.specs import TeacherSpec

TEMPLATE_SUFFIX = ".jinja"
RECIPE_SUFFIX = ".py"
ROWS_SUFFIX = ".jsonl"
CHECKS_BY_TEACHER = ("judge", "round_trip")


def pair_templates(spec: PairSpec) -> list[str]:
    """Return the keys of a recipe of pairs that name a template."""
    return [key for key in ("template", "answer_template") if key in type(spec).model_fields]


def absolute(config: Config, base: Path) -> Config:
    """Return the configuration with every path made absolute."""

    def path(value: Path) -> Path:
        return (base / value.expanduser()).resolve()

    def served(spec: TeacherSpec) -> TeacherSpec:
        directory = path(Path(spec.model))
        managed = spec.base_url is None and directory.is_dir()
        return spec.model_copy(update={"model": str(directory)}) if managed else spec

    def template(value: str) -> str:
        return str(path(Path(value))) if value.endswith(TEMPLATE_SUFFIX) else value

    def scorer(spec: Scorer) -> Scorer:
        if not isinstance(spec, JudgeScorer):
            return spec
        human = path(spec.human) if spec.human is not None else None
        return spec.model_copy(update={"template": template(spec.template), "human": human})

    def shots(source: str | None) -> str | None:
        return str(path(Path(source))) if source is not None and source.endswith(ROWS_SUFFIX) else source

    def stage(spec: StageConfig) -> StageConfig:
        pairs = tuple(
            entry.model_copy(update={key: template(getattr(entry, key)) for key in pair_templates(entry)})
            for entry in spec.data.pairs
        )
        return spec.model_copy(update={"data": spec.data.model_copy(update={"pairs": pairs})})

    recipes = tuple(
        recipe.model_copy(
            update={
                "recipe": str(path(Path(recipe.recipe))) if recipe.recipe.endswith(RECIPE_SUFFIX) else recipe.recipe,
                "templates": tuple(map(template, recipe.templates)),
                "first_templates": tuple(map(template, recipe.first_templates)),
                "shots_from": shots(recipe.shots_from),
                "seeds": path(recipe.seeds) if recipe.seeds is not None else None,
            }
        )
        for recipe in config.generate.recipes
    )
    checks = {
        name: check.model_copy(update={"template": template(check.template)})
        for name in CHECKS_BY_TEACHER
        if (check := getattr(config.curate, name)) is not None
    }
    return config.model_copy(
        update={
            "generate": config.generate.model_copy(
                update={"recipes": recipes, "targets": tuple(map(path, config.generate.targets))}
            ),
            "curate": config.curate.model_copy(update=checks),
            "home": path(config.home),
            "documents": config.documents.model_copy(update={"paths": tuple(map(path, config.documents.paths))}),
            "teacher": served(config.teacher),
            "judges": {name: served(spec) for name, spec in config.judges.items()},
            "stages": tuple(map(stage, config.stages)),
            "student": config.student.model_copy(update={"model": path(config.student.model)}),
            "replay": path(config.replay) if config.replay else None,
            "suites": {
                name: suite.model_copy(
                    update={
                        "path": shipped_path(suite.path) or path(suite.path),
                        "shots_from": path(suite.shots_from) if suite.shots_from is not None else None,
                        "scorer": scorer(suite.scorer),
                    }
                )
                for name, suite in config.suites.items()
            },
        }
    )
