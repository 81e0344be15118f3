"""A suite of likelihoods goes through the worker and the catalogue as answers do: asked once, kept, scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest

from data_catalog.catalogue import Catalogue
from data_catalog.records import Likelihood
from evaluation.specs import SuiteSpec
from evaluation.suites import load_suite, requests
from flows import model_steps, workers
from flows.config_file import load_config
from flows.context import RunContext
from flows.progress import SilentReporter
from flows.teacher import LazyTeacher
from tests.flows.projects import write_project


@pytest.mark.slow
def test_likelihoods_are_asked_of_the_weights_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(write_project(tmp_path, "http://127.0.0.1:1/v1", count=1))
    ctx = RunContext(config, Catalogue(config.home), cast(LazyTeacher, None), SilentReporter())
    path = tmp_path / "choices.jsonl"
    rows = [{"question": f"Is part {n} red?", "choices": ["yes", "no"], "answers": ["yes"]} for n in range(3)]
    path.write_text("\n".join(map(json.dumps, rows)))
    suites = [load_suite("choices", SuiteSpec.model_validate({"path": path, "scorer": "multiple_choice"}))]
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps({"text": "The rotor is red."}))
    suites.append(load_suite("texts", SuiteSpec.model_validate({"path": path, "scorer": "perplexity"})))
    base = model_steps.base_model(ctx)
    scores = model_steps.evaluate(ctx, suites, base)
    kept = ctx.catalogue.answered([one.key for suite in suites for one in requests(suite, base.fingerprint)])
    assert len(kept) == 7
    assert all(Likelihood.of(completion).logprob < 0 for completion in kept.values())
    assert {entry.completion for entry in scores["choices"]} <= {"yes", "no"}
    assert {entry.score for entry in scores["choices"]} <= {0.0, 1.0}
    (text,) = scores["texts"]
    assert text.score is not None
    assert 0 < text.score < 1
    assert text.completion.startswith("perplexity ")

    def nobody(*arguments: object, **options: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(workers, "complete", nobody)
    assert model_steps.evaluate(ctx, suites, base) == scores
