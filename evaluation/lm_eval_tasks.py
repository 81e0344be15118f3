"""Tasks of lm-evaluation-harness, opened and scored by lm-eval's own code: its prompts, shots, filters and metrics.

What lm-eval would send to a model is taken from it as instances, becomes requests like those of any other suite, and
what was answered goes back into instances, of which lm-eval's task works out the metrics, one document at a time, as
`lm_eval.evaluator.evaluate` does. lm-eval is imported when such a suite is read, and nowhere else.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import io
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from data_catalog.errors import ConfigError, DataError, MissingDependency, TutelageError
from data_catalog.identity import digest
from evaluation.lm_eval_files import ANSWER_LENGTHS, TaskFiles, check_task, contents, local_data, refusal

SEED = 1234
"""Of the few-shot examples: lm-eval's own."""
ANSWER_TOKENS = 256
"""Longest answer in tokens where the task says nothing: lm-eval's own."""


class TaskRef(NamedTuple):
    """All that opens a task, as plain values, so that a sample can carry it."""

    path: str
    name: str
    digest: str
    """Of its files: a changed one is opened anew."""
    data: str
    """What `lm_eval_files.local_data` says, as JSON."""
    contents: str
    """Digest of those files: changed data are read anew."""
    shots: int | None
    chat: bool


class Asked(NamedTuple):
    """One instance of lm-eval: what is asked of the model."""

    context: str
    """Plain text; with `chat` the turns, as JSON."""
    text: str | None
    """Whose likelihood behind it is asked; None: an answer is."""
    max_tokens: int


class OpenTask(NamedTuple):
    """A task of lm-eval with its documents' instances, in the documents' order."""

    task: Any
    groups: tuple[tuple[Any, ...], ...]


def version() -> str:
    """Return the version of the installed lm-eval.

    Raises:
        MissingDependency: it is not installed.
    """
    try:
        import lm_eval
        import lm_eval.tasks  # noqa: F401 - and what it needs

        return importlib.metadata.version("lm-eval")
    except ImportError as error:
        raise MissingDependency(
            f"the scorer `lm_eval` needs the package lm-eval: {error}",
            next_step="pip install 'tutelage[lm-eval]' (in a checkout: pip install '.[lm-eval]')",
        ) from error


def task_ref(files: TaskFiles, *, shots: int | None, chat: bool, run_code: bool) -> TaskRef:
    """Return what opens a task that may be opened.

    Raises:
        ConfigError, DataError: as `check_task` and `local_data`.
    """
    check_task(files, run_code=run_code)
    _check_registered(files)
    # Only a function stands in for the data set; whatever else is said there, lm-eval loads what the path names.
    data = {} if files.config.get("custom_dataset") in files.functions else local_data(files)
    return TaskRef(str(files.path), files.name, files.digest, json.dumps(data), contents(data), shots, chat)


def open_task(ref: TaskRef) -> OpenTask:
    """Let lm-eval read a task and build what it asks; what it can't read is a DataError."""
    try:
        return _opened(ref)
    except TutelageError:
        raise
    except Exception as error:
        causes = " ← ".join(f"{type(one).__name__}: {one}" for one in _chain(error))
        raise DataError(
            f"lm-eval can't read task `{ref.name}` ({ref.path}): {causes}",
            valid="a task that `lm_eval run --tasks` accepts",
            next_step="correct the YAML or its data",
        ) from error


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what caused it: `datasets` says only in the last of them what is wrong with a file."""
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__


@lru_cache(maxsize=8)
def _opened(ref: TaskRef) -> OpenTask:
    with _quiet(), tempfile.TemporaryDirectory() as cache:
        task = _load(ref, json.loads(ref.data), cache)
        _set_shots(task, ref)
        chat = {"apply_chat_template": True, "fewshot_as_multiturn": True, "chat_template": _turns} if ref.chat else {}
        task.build_all_requests(rank=0, world_size=1, **chat)
    groups: dict[int, list[Any]] = {}
    for instance in task.instances:
        groups.setdefault(instance.doc_id, []).append(instance)
    ordered = (sorted(group, key=lambda instance: instance.idx) for _, group in sorted(groups.items()))
    return OpenTask(task, tuple(tuple(group) for group in ordered))


def _load(ref: TaskRef, data: dict[str, Any], cache: str) -> Any:
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    config = {key: value for key, value in load_yaml(ref.path).items() if key not in ("tag", "group", "task_list")}
    if data:
        # A copy in memory: nothing of ours is left in the cache of `datasets`, and nothing stale is read from it.
        data["dataset_kwargs"] = {**data["dataset_kwargs"], "cache_dir": cache, "keep_in_memory": True}
    return TaskManager(include_defaults=False).load([config | data])["tasks"][ref.name]


def _set_shots(task: Any, ref: TaskRef) -> None:
    own = task.get_config("num_fewshot")
    if ref.shots is not None and own == 0 and ref.shots > 0:
        raise ConfigError(
            f"task `{ref.name}` says `num_fewshot: 0`, so lm-eval gives it no examples; the suite asks for {ref.shots}",
            valid="no `shots` here, or another `num_fewshot` there",
            next_step=f"take `shots` out of the suite's scorer, or `num_fewshot` out of {ref.path}",
        )
    task.set_config("num_fewshot", ref.shots if ref.shots is not None else own or 0)
    task.set_fewshot_seed(SEED)


def _turns(messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True) -> str:
    """Stand in for a tokenizer's chat template: the turns are kept, and our own templates are applied to them."""
    if not add_generation_prompt:
        raise DataError(
            "the task has a `gen_prefix`, a beginning of the answer, which no chat template of ours goes on with",
            valid="`chat: false` for this task",
            next_step="take `chat` out of the suite's scorer",
        )
    return json.dumps([{"role": turn["role"], "content": turn["content"]} for turn in messages], ensure_ascii=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep lm-eval's progress bars and remarks off the terminal, and its templates in jinja's sandbox."""
    # Here, not above: the types of a configuration import nothing heavy.
    import lm_eval.utils
    from jinja2 import BaseLoader, StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    own = lm_eval.utils.env
    if not isinstance(own, SandboxedEnvironment):
        # lm-eval renders a task's templates without it, where `{{ ''.__class__ ... }}` leads to any code.
        sandbox = SandboxedEnvironment(loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True)
        sandbox.filters.update(own.filters)
        lm_eval.utils.env = sandbox
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


def check_metric(opened: OpenTask, name: str) -> str:
    """Return which metric of which filter a sample's score is, as lm-eval writes it: `exact_match,strict-match`.

    Args:
        opened: the task.
        name: the same, or a metric alone, of which the first filter is taken; empty: the task's first metric.

    Raises:
        ConfigError: the task has no such metric or filter, or its value is not one per document where more is better.
    """
    task = opened.task
    metrics, filters = list(task.aggregation()), [entry.name for entry in task._filters]
    metric, _, chosen = (name or metrics[0]).partition(",")
    chosen = chosen or filters[0]
    if metric not in metrics or chosen not in filters:
        raise ConfigError(
            f"task `{task.task_name}` has no metric {name!r}",
            valid=f"metrics: {', '.join(metrics)}; filters: {', '.join(filters)}; such as `{metrics[0]},{filters[0]}`",
            next_step="correct `metric` in the suite's scorer, or the task's `metric_list`",
        )
    from lm_eval.api.registry import get_aggregation

    greedy = task.OUTPUT_TYPE == "multiple_choice" and metric == "exact_match"
    if greedy or task.aggregation()[metric] is not get_aggregation("mean") or not task.higher_is_better()[metric]:
        raise ConfigError(
            f"metric `{metric}` of task `{task.task_name}` gives no score of one document",
            valid="a metric whose mean over the documents is reported, and of which more is better: acc, acc_norm, "
            "acc_bytes, acc_mutual_info of multiple_choice; exact_match of generate_until",
            next_step="choose another `metric` in the suite's scorer",
        )
    return f"{metric},{chosen}"


def _check_registered(files: TaskFiles) -> None:
    """Refuse metrics that lm-eval would fetch from the hub, as code.

    Raises:
        DataError: a metric is none of lm-eval's own.
    """
    import lm_eval.api.metrics  # noqa: F401 - fills the registry
    from lm_eval.api.registry import METRIC_REGISTRY

    for entry in files.config.get("metric_list") or []:
        if not isinstance(entry, dict):
            raise refusal(files, f"metric {entry!r}", "an entry like {metric: acc, aggregation: mean}")
        name = entry.get("metric")
        own = name in METRIC_REGISTRY or name in files.functions or "process_results" in files.config
        if not own or entry.get("hf_evaluate"):
            raise refusal(files, f"metric `{name}`, which is fetched from the hub", "a metric of lm-eval's own")


def asked(opened: OpenTask, place: int) -> list[Asked]:
    """Return what is asked about a document."""
    return [_asked(instance) for instance in opened.groups[place]]


def _asked(instance: Any) -> Asked:
    context, rest = instance.args
    if instance.request_type == "loglikelihood":
        return Asked(context, rest, 0)
    return Asked(context, None, next((int(rest[key]) for key in ANSWER_LENGTHS if rest.get(key)), ANSWER_TOKENS))


def score(opened: OpenTask, place: int, metric: str, answers: Sequence[float | str]) -> float:
    """Return what lm-eval's metric says of one document, given the log-probability or the text of each instance.

    Raises:
        DataError: it says what is no score.
    """
    task = opened.task
    name, _, chosen = metric.partition(",")
    instances = [_answered(instance, answer) for instance, answer in zip(opened.groups[place], answers, strict=True)]
    with _quiet():
        next(entry for entry in task._filters if entry.name == chosen).apply(instances)
        filtered = [instance.filtered_resps[chosen] for instance in instances]
        value = task.process_results(instances[0].doc, filtered).get(name)
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DataError(
            f"metric `{name}` of task `{task.task_name}` gives {value!r} for one document",
            valid="a number from 0 to 1",
            next_step="choose another `metric` in the suite's scorer",
        )
    return float(value)


def _answered(instance: Any, answer: float | str) -> Any:
    one = copy.copy(instance)
    one.filtered_resps = {}
    if isinstance(answer, str):
        one.resps = [_until(answer, instance.args[1].get("until") or [])]
    else:
        # Whether the choice is also what the model would write by itself: no metric that we let through looks at it.
        one.resps = [(answer, False)]
    return one


def _until(text: str, stops: str | Sequence[str]) -> str:
    """Cut an answer at the first stop sequence, as lm-eval's models do, whose generation ends there."""
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.split(stop)[0] if stop else text
    return text


class Worded(NamedTuple):
    """A document as a reader sees it."""

    question: str
    """What no training data may hold: the task's `doc_to_decontamination_query`; without one the document's `question`,
    or else `doc_to_text`."""
    answers: tuple[str, ...]
    choices: tuple[str, ...]


def worded(opened: OpenTask, place: int) -> Worded:
    """Return a document's question, what is right, and the choices if there are any."""
    task, doc = opened.task, opened.groups[place][0].doc
    with _quiet():
        question, target = task.doc_to_text(doc), task.doc_to_target(doc)
        choices = tuple(task.doc_to_choice(doc)) if task.get_config("doc_to_choice") is not None else ()
        if isinstance(question, int):  # the choices are the questions, and this is the place of the right one
            question, target = " / ".join(choices), question
        if task.should_decontaminate():
            question = task.doc_to_decontamination_query(doc)
        elif isinstance(doc.get("question"), str):
            question = doc["question"]
    answers = target if isinstance(target, list) else [target]
    right = tuple(_named(one, choices) for one in answers)
    return Worded(str(question).strip() or str(opened.groups[place][0].args[0]), right, choices)


def _named(target: Any, choices: Sequence[str]) -> str:
    return choices[target] if isinstance(target, int) and 0 <= target < len(choices) else str(target)


def document(opened: OpenTask, place: int) -> dict[str, Any]:
    """Return a document's fields, as JSON knows them."""
    fields: dict[str, Any] = json.loads(json.dumps(dict(opened.groups[place][0].doc), default=str))
    return fields


def document_digest(opened: OpenTask, place: int) -> str:
    """Return the SHA-256 of a document's fields."""
    return digest(document(opened, place))


def described(opened: OpenTask) -> str:
    """Return the task's version and its number of examples."""
    return f"version {opened.task.VERSION}, {opened.task.get_config('num_fewshot')} shots"
