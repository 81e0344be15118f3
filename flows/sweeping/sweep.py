"""A sweep from its options to its result: what is refused before anything is trained, and which trial is best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data_catalog.catalogue import Catalogue
from data_catalog.dataset_lookup import known_datasets
from data_catalog.errors import ConfigError, TrainingError
from data_catalog.records import DatasetVersion
from evaluation.gates import labels_of, sliced_ids
from evaluation.specs import GateRule, Requirement, SuiteSpec
from evaluation.suites import Suite, load_suite
from flows.batch_view import start_model
from flows.config import Config, StageConfig
from flows.fingerprints import model_fingerprint
from flows.judging import introduce_judges
from flows.model_steps import StudentModel
from flows.pipeline import HELD_OUT, open_run
from flows.progress import Reporter
from flows.project import CATALOGUE_NAME
from flows.sweeping.samplers import SAMPLERS
from flows.sweeping.space import Parameter, parse_parameter
from flows.sweeping.trials import Bench, Trial, TrialState, run_trials, shares_for


@dataclass(frozen=True)
class Wanted:
    """What a user asks of a sweep. `parameters` as on the command line; `budget` in seconds."""

    stage: str
    parameters: Sequence[str]
    trials: int = 12
    budget: float | None = None
    suite: str | None = None
    sampler: str = "random"
    prune: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Sweep:
    """What a sweep came to; `trials` the best first."""

    stage: StageConfig
    suite: Suite
    parameters: tuple[Parameter, ...]
    trials: tuple[Trial, ...]

    @property
    def as_configured(self) -> Trial:
        """The trial with the settings as they are."""
        return next(trial for trial in self.trials if not trial.values)

    @property
    def best(self) -> Trial:
        """The best of the trials that were trained for all epochs."""
        return self.trials[0]

    @property
    def improved(self) -> bool:
        """Whether any setting did better than those in the configuration."""
        return bool(self.best.values)


def sweep(config: Config, wanted: Wanted, reporter: Reporter) -> Sweep:
    """Try settings of a stage; the same call goes on where an interrupted one stopped.

    Raises:
        ConfigError: the stage, a parameter or the suite can't be used, or there is nothing to train on yet.
        MissingDependency: the sampler needs a package that is not installed.
        TrainingError: no trial came to its end.
    """
    if wanted.trials < 1:
        raise ConfigError(f"--trials {wanted.trials}", valid="1 or more")
    stage = _stage(config, wanted.stage)
    parameters = _parameters(wanted.parameters, stage)
    sampler = SAMPLERS[wanted.sampler](parameters, wanted.trials, wanted.seed)
    suite = suite_to_choose_on(config, stage, wanted.suite)
    dataset = _dataset(config, stage)
    start = _start(config, stage)
    bench = Bench(stage, start, dataset, suite, shares_for(sampler.trials, prune=wanted.prune))
    with open_run(config, reporter, "tutelage sweep") as ctx:
        introduce_judges(ctx, [suite])
        reporter.note(
            f"from {start.path}, on {dataset.rows:,} rows ({dataset.id}), scored on {len(suite.samples):,} samples of "
            f"{suite.name}, which no gate asks"
        )
        trials = list(run_trials(ctx, bench, sampler, wanted.budget))
    finished = [trial for trial in trials if trial.state is TrialState.FINISHED]
    if not finished:
        raise TrainingError(
            f"no trial of {len(trials)} came to its end: {trials[-1].error}",
            next_step="correct what the error says; the same command tries the failed trials again",
        )
    return Sweep(stage, suite, parameters, tuple(sorted(trials, key=_rank)))


def _rank(trial: Trial) -> tuple[bool, float, float, int]:
    """Order trials: finished ones by score, then the others by how far they came; a tie is for the earlier one."""
    return trial.state is not TrialState.FINISHED, -trial.share, -(trial.score or 0.0), trial.number


def primary_rule(stage: StageConfig) -> GateRule | None:
    """Return the rule of a gate that says what the stage is for: the first that asks for better, or else the first."""
    rules = [rule for rule in stage.gate if rule.require is not Requirement.BRIEF]
    return next((rule for rule in rules if rule.require is Requirement.BETTER), rules[0] if rules else None)


def _stage(config: Config, name: str) -> StageConfig:
    stage = next((stage for stage in config.stages if stage.name == name), None)
    swept = ", ".join(stage.name for stage in config.stages if _why_not_swept(stage) is None)
    if stage is None:
        raise ConfigError(f"no stage `{name}`", valid=swept, next_step="name one with --stage")
    reason = _why_not_swept(stage)
    if reason is not None:
        raise ConfigError(f"stage {name} ({stage.train.stage}) can't be swept: {reason}", valid=swept)
    return stage


def _why_not_swept(stage: StageConfig) -> str | None:
    if stage.train.stage == "reward":
        return "a reward model answers no suite"
    return "it needs the reward model of a stage before it" if stage.train.judged else None


def _parameters(texts: Sequence[str], stage: StageConfig) -> tuple[Parameter, ...]:
    parameters = tuple(parse_parameter(text, stage.train) for text in texts)
    names = [parameter.name for parameter in parameters]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise ConfigError(
            f"--parameter is given twice for {', '.join(twice)}" if twice else "--parameter is missing",
            valid="one or more different ones, such as learning_rate=1e-5..1e-3",
        )
    return parameters


def suite_to_choose_on(config: Config, stage: StageConfig, named: str | None) -> Suite:
    """Return the samples to choose on: those of the gate's first rule, or of the suite that is named."""
    rule = primary_rule(stage)
    name = named or (rule.suite if rule is not None else None)
    held_out = config.home / "suites" / f"{HELD_OUT}.jsonl"
    if name == HELD_OUT and name not in config.suites and held_out.is_file():
        return load_suite(name, SuiteSpec(path=held_out))  # no gate can name it
    if name is None or name not in config.suites:
        raise ConfigError(
            f"no suite named {name!r}" if name else f"stage {stage.name} has no gate whose metric could choose",
            valid=", ".join(config.suites) or "none defined",
            next_step="name one with --suite",
        )
    suite = load_suite(name, config.suites[name]).for_development()
    if rule is None or rule.suite != name or not rule.slice:
        return suite
    ids = sliced_ids(rule, labels_of({name: suite.samples}))
    return suite.only(ids)


def _dataset(config: Config, stage: StageConfig) -> DatasetVersion:
    name = f"{config.project}-{stage.name}"
    known = known_datasets(Catalogue(config.home)) if (config.home / CATALOGUE_NAME).is_file() else []
    found = next((one.version for one in known if one.version.name == name), None)
    if found is None:
        raise ConfigError(
            f"stage {stage.name} has no dataset version yet",
            next_step="`tutelage refresh CONFIG` writes one, or `tutelage run CONFIG` that of a preference stage",
        )
    return found


def _start(config: Config, stage: StageConfig) -> StudentModel:
    """Return the model that a run would start the stage from: what the stage before it left last, or the student."""
    earlier = [one for one in config.stages[: config.stages.index(stage)] if one.train.stage != "reward"]
    path = start_model(config, stage)
    if earlier and path == start_model(config, earlier[-1]):
        raise ConfigError(
            f"stage {stage.name} starts from what {earlier[-1].name} makes, and that has not been trained yet",
            next_step="run `tutelage run CONFIG` first: the sweep starts from what it left",
        )
    return StudentModel("start", path, model_fingerprint(path, home=config.home))
