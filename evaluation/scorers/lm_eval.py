"""A task of lm-evaluation-harness as a suite: lm-eval's own code makes the prompts and scores our models' answers.

`path` of the suite is the directory with the task's YAML and data. Needs the extra `lm-eval`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from data_catalog.identity import make_id
from data_catalog.records import Message
from evaluation import lm_eval_tasks
from evaluation.lm_eval_files import find_task
from evaluation.lm_eval_tasks import Asked, OpenTask, TaskRef
from evaluation.samples import Sample
from evaluation.scorers.parts import Answer, Prompt, Scorer

OWN = "lm_eval"
"""The key of `Sample.meta` with what is ours; the others are the document's fields."""


class LmEval(Scorer):
    """The metric that a task of lm-evaluation-harness works out for one document; needs the extra `lm-eval`.

    Source: Biderman et al., Lessons from the Trenches on Reproducible Evaluation of Language Models (arXiv 2405.14782).
    """

    name: Literal["lm_eval"] = "lm_eval"
    task: str = ""
    """What the YAML says under `task`. Empty: the only task of the directory."""
    metric: str = ""
    """`acc`, `acc_norm`, `exact_match`, or one with its filter, as lm-eval writes it: `exact_match,strict-match`.
    Empty: the first of the task's `metric_list`, and its first filter."""
    shots: int | None = Field(default=None, ge=0, le=64)
    """Examples before each question, instead of the task's `num_fewshot`; lm-eval draws them (seed 1234)."""
    chat: bool = False
    """Whether the prompt is put into the model's chat template, as by `lm_eval --apply_chat_template`; otherwise it is
    plain text that the model goes on with."""
    run_code: bool = False
    """Whether the functions that the YAML names (`!function`) may be imported and run. Only for code that you have
    read."""

    def prepare(self) -> None:
        """Find out whether lm-eval is installed."""
        lm_eval_tasks.version()

    def read(self, suite: str, directory: Path) -> tuple[Sample, ...]:
        """Return one sample for each document of the task.

        Raises:
            ConfigError: there is no such task or metric, or it runs code that is not allowed to run.
            DataError: the task or its data can't be used.
        """
        files = find_task(suite, directory, self.task)
        ref = lm_eval_tasks.task_ref(files, shots=self.shots, chat=self.chat, run_code=self.run_code)
        opened = lm_eval_tasks.open_task(ref)
        metric = lm_eval_tasks.check_metric(opened, self.metric)
        described = f"lm_eval task {files.name}, {lm_eval_tasks.described(opened)}, {metric}, files {ref.digest[:12]}"
        shared = {
            "ref": ref._asdict(),
            "metric": metric,
            "described": described,
            "version": lm_eval_tasks.version(),
        }
        times: Counter[str] = Counter()
        samples = []
        for place in range(len(opened.groups)):
            key = lm_eval_tasks.document_digest(opened, place)
            times[key] += 1
            # A document that stands twice in a benchmark counts twice, as it does in lm-eval.
            identity = make_id("sample", {"task": files.name, "document": key, "time": times[key]})
            samples.append(_sample(identity, opened, place, {**shared, "document": key}, chat=self.chat))
        return tuple(samples)

    def prompts(self, sample: Sample) -> tuple[Prompt, ...]:
        """Return what lm-eval asks about the document: for multiple choice, how likely each choice is."""
        return tuple(Prompt.model_validate(worded) for worded in sample.meta[OWN]["prompts"])

    def continuations(self, sample: Sample) -> tuple[str, ...]:
        """Return the choices as they go on from the prompt, where likelihoods are asked."""
        return tuple(worded.messages[-1].content for worded in self.prompts(sample) if worded.max_tokens == 0)

    def score(self, sample: Sample, answer: Answer) -> float:
        """Return lm-eval's metric of the document.

        Raises:
            DataError: it is no number from 0 to 1.
        """
        own = sample.meta[OWN]
        answers: list[float | str] = [found.logprob for found in answer.likelihoods]
        answers = answers or [answer.text]
        return lm_eval_tasks.score(_opened(own), own["place"], own["metric"], answers)

    def shown(self, sample: Sample, answer: Answer) -> str:
        """Return the answer; of multiple choice, the choice that is likeliest as a whole (lm-eval's `acc`)."""
        choices = sample.meta[OWN]["choices"]
        if not answer.likelihoods or not choices:
            return answer.text
        # Behind those of the choices may stand their likelihoods without the question (`acc_mutual_info`).
        values = [found.logprob for found in answer.likelihoods[: len(choices)]]
        return str(choices[values.index(max(values))])

    def basis(self, sample: Sample) -> Any:
        """Return the task's files and lm-eval's version, the document, and what is asked about it."""
        own = sample.meta[OWN]
        return {
            "files": own["ref"]["digest"],
            "version": own["version"],
            "metric": own["metric"],
            "document": own["document"],
            "prompts": own["prompts"],
        }

    def described(self, samples: Sequence[Sample]) -> str:
        """Return the task, its version, the number of shots, the metric, and what its files hash to."""
        return str(samples[0].meta[OWN]["described"])


def _opened(own: Mapping[str, Any]) -> OpenTask:
    return lm_eval_tasks.open_task(TaskRef(**own["ref"]))


def _sample(identity: str, opened: OpenTask, place: int, shared: Mapping[str, Any], *, chat: bool) -> Sample:
    document = lm_eval_tasks.document(opened, place)
    worded = lm_eval_tasks.worded(opened, place)
    prompts = [_prompt(asked, chat=chat).model_dump(mode="json") for asked in lm_eval_tasks.asked(opened, place)]
    given = {key: document.get(key) for key in ("document", "kind")}
    return Sample(
        id=identity,
        messages=(Message(role="user", content=worded.question),),
        answers=worded.answers,
        meta={
            **{key: value for key, value in document.items() if key not in (*given, OWN)},
            OWN: {**shared, "place": place, "prompts": prompts, "choices": worded.choices},
        },
        **{key: value if isinstance(value, str) else None for key, value in given.items()},
    )


def _prompt(asked: Asked, *, chat: bool) -> Prompt:
    """Return the turns: of the assistant alone where the prompt is plain text."""
    if not asked.context:
        before: list[Message] = []
    elif chat:
        before = [Message.model_validate(turn) for turn in json.loads(asked.context)]
    else:
        before = [Message(role="assistant", content=asked.context)]
    after = [] if asked.text is None else [Message(role="assistant", content=asked.text)]
    return Prompt(messages=(*before, *after), max_tokens=asked.max_tokens)
