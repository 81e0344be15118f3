"""What a task of lm-evaluation-harness may be; all of it is found out without lm-eval, and without running anything."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from data_catalog.errors import ConfigError, DataError, MissingDependency
from evaluation.lm_eval_files import find_task, local_data
from evaluation.lm_eval_tasks import task_ref
from evaluation.specs import SuiteSpec
from evaluation.suites import load_suite
from tests.evaluation.lm_eval_rows import ANSWERS, CHOICES, write_task


def suite_spec(folder: Path, **fields: Any) -> SuiteSpec:
    return SuiteSpec.model_validate({"path": folder, "scorer": {"name": "lm_eval", "task": "colours"}, **fields})


def refused(folder: Path, name: str = "colours") -> str:
    with pytest.raises((ConfigError, DataError)) as caught:
        task_ref(find_task("suite", folder, name), shots=None, chat=False, run_code=False)
    assert caught.value.valid
    assert caught.value.next_step
    return str(caught.value)


def test_a_task_is_found_by_its_name_with_its_data_beside_it(tmp_path: Path) -> None:
    write_task(tmp_path / "colours", CHOICES)
    write_task(tmp_path / "parts", ANSWERS)
    files = find_task("suite", tmp_path, "parts")
    assert files.path == tmp_path / "parts" / "parts.yaml"
    assert local_data(files)["dataset_kwargs"] == {"data_files": {"test": str(tmp_path / "parts" / "rows.jsonl")}}
    assert files.functions == ()
    assert "names no task" in refused(tmp_path, "")
    assert find_task("suite", tmp_path / "parts", "") == files


def test_an_unknown_task_is_told_with_those_there_are(tmp_path: Path) -> None:
    write_task(tmp_path / "colours", CHOICES)
    assert "one of colours" in refused(tmp_path, "colors")
    assert "is no directory" in refused(tmp_path / "elsewhere")


def test_a_yaml_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "colours.yaml").write_text("task: [colours\n")
    assert "can't be read as the YAML" in refused(tmp_path)
    (tmp_path / "colours.yaml").write_text("task: !!python/name:os.system colours\n")
    assert "no tag but `!function`" in refused(tmp_path)


def test_two_files_with_one_task_are_refused(tmp_path: Path) -> None:
    write_task(tmp_path / "one", CHOICES)
    write_task(tmp_path / "two", CHOICES)
    assert "both have" in refused(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dataset_path": "cais/mmlu", "dataset_kwargs": {}}, "Nothing is downloaded"),
        ({"dataset_kwargs": {"data_files": "https://example.org/rows.jsonl"}}, "there is no file"),
        ({"dataset_kwargs": {"data_files": {"test": "hf://datasets/a/b/rows.jsonl"}}}, "there is no file"),
        ({"dataset_kwargs": {"data_files": ["missing.jsonl"]}}, "there is no file"),
        ({"dataset_kwargs": {}}, "names no file"),
    ],
)
def test_data_that_are_not_on_this_machine_are_refused(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    write_task(tmp_path, {**CHOICES, **change})
    with pytest.raises(DataError, match=told):
        local_data(find_task("suite", tmp_path, "colours"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"output_type": "loglikelihood_rolling"}, "`output_type: loglikelihood_rolling`"),
        ({"output_type": "loglikelihood"}, "multiple_choice or generate_until"),
        ({"use_prompt": "promptsource:all"}, "`use_prompt`"),
        ({"doc_to_image": "picture"}, "`doc_to_image`"),
        ({"repeats": 3}, "`repeats`"),
        ({"generation_kwargs": {"do_sample": True}}, "sampled answers"),
        ({"generation_kwargs": {"num_beams": 4}}, "`generation_kwargs.num_beams`"),
        ({"unsafe_code": True}, "unsafe_code"),
    ],
)
def test_what_is_not_carried_is_refused(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    write_task(tmp_path, {**CHOICES, **change})
    assert told in refused(tmp_path)


def test_only_a_function_stands_in_for_a_data_set(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install '.[lm-eval]'")
    write_task(tmp_path, {**CHOICES, "custom_dataset": "none", "dataset_path": "cais/mmlu"})
    assert "Nothing is downloaded" in refused(tmp_path)


def test_functions_are_named_and_not_run(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\ndef docs(rows): return rows\n")
    (tmp_path / "common").write_text("process_docs: !function helper.docs\n")
    write_task(tmp_path, CHOICES, text="include: common\n")
    told = refused(tmp_path)
    assert "helper.docs" in told
    assert "run_code: true" in told
    assert not (tmp_path / "ran").exists()


def test_the_digest_is_of_all_that_decides_what_the_task_is(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("def docs(rows): return rows\n")
    (tmp_path / "common").write_text("process_docs: !function helper.docs\n")
    write_task(tmp_path, CHOICES, text="include: common\n")
    digests = [find_task("suite", tmp_path, "colours").digest]
    for name in ("helper.py", "common", "colours.yaml"):
        (tmp_path / name).write_text((tmp_path / name).read_text() + "# changed\n")
        digests.append(find_task("suite", tmp_path, "colours").digest)
    assert len(set(digests)) == 4


def test_an_include_of_itself_is_refused(tmp_path: Path) -> None:
    write_task(tmp_path, CHOICES, text="include: colours.yaml\n")
    assert "includes itself" in refused(tmp_path)


def test_the_suite_words_nothing(tmp_path: Path) -> None:
    for fields in ({"system": "Be brief."}, {"templates": ["Q: {question}"]}, {"max_tokens": 5}):
        with pytest.raises(ValueError, match="not for `scorer: lm_eval`"):
            suite_spec(tmp_path, **fields)


def test_a_missing_package_is_told_with_what_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingDependency, match=r"tutelage\[lm-eval\]"):
        load_suite("suite", suite_spec(write_task(tmp_path, CHOICES)))


def test_rows_are_json_lines(tmp_path: Path) -> None:
    folder = write_task(tmp_path, CHOICES)
    assert [json.loads(line)["gold"] for line in (folder / "rows.jsonl").read_text().splitlines()] == [1, 0]
