"""Suites: what a row may be, what each bad row is told, and the requests that come out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_catalog.errors import ConfigError, DataError
from evaluation.scorers.abstention import Abstention
from evaluation.scorers.contains import Contains
from evaluation.scorers.groundedness import Groundedness
from evaluation.scorers.regex import Regex
from evaluation.scorers.token_f1 import TokenF1
from evaluation.specs import SuiteSpec
from evaluation.suites import load_suite, questions, requests, requests_by_sample

QUESTION = {"question": "How many bolts hold the Veltrano 40?", "answers": ["12"]}
OTHER = {"question": "阀门在哪里?", "answers": ["左侧"], "document": "veltrano.md", "kind": "place", "difficulty": 3}
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("question", "document", "kind")),
        ("answers", pa.list_(pa.string())),
        ("difficulty", pa.int64()),
    ]
)


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "suite.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows))
    return path


def test_rows_become_samples(tmp_path: Path) -> None:
    path = write(tmp_path, QUESTION, "", OTHER)
    suite = load_suite("gold", SuiteSpec(path=path))
    first, second = suite.samples
    assert first.question == QUESTION["question"]
    assert first.answers == ("12",)
    assert (second.document, second.kind, second.meta) == ("veltrano.md", "place", {"difficulty": 3})
    assert questions(suite) == [QUESTION["question"], OTHER["question"]]


def test_ids_come_from_content_or_from_the_row(tmp_path: Path) -> None:
    path = write(tmp_path, QUESTION, {**OTHER, "id": 7})
    first, second = load_suite("gold", SuiteSpec(path=path)).samples
    assert first.id.startswith("sample-")
    assert second.id == "7"
    moved = load_suite("gold", SuiteSpec(path=write(tmp_path, OTHER, QUESTION)))
    assert moved.samples[1].id == first.id


def test_messages_stand_for_a_question(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "Text: The pump is red."},
        {"role": "assistant", "content": "Ask."},
        {"role": "user", "content": "What colour is the pump?"},
    ]
    suite = load_suite("general", SuiteSpec(path=write(tmp_path, {"messages": turns, "answers": ["red"]})))
    assert suite.samples[0].question == "What colour is the pump?"
    assert len(requests(suite, "model-1")[0].messages) == 3


def test_requests_are_greedy_and_carry_where_they_come_from(tmp_path: Path) -> None:
    spec = SuiteSpec(path=write(tmp_path, QUESTION, OTHER), system="Answer briefly.", max_tokens=9)
    suite = load_suite("gold", spec)
    first, second = requests(suite, "model-1")
    assert [message.role for message in first.messages] == ["system", "user"]
    assert (first.model, first.purpose) == ("model-1", "evaluate")
    assert (first.sampling.temperature, first.sampling.max_tokens) == (0.0, 9)
    assert second.origin == {"suite": "gold", "sample_id": suite.samples[1].id}
    assert first.key != requests(suite, "model-2")[0].key


def test_limit_takes_the_first_samples(tmp_path: Path) -> None:
    path = write(tmp_path, QUESTION, OTHER, "broken")
    assert len(load_suite("gold", SuiteSpec(path=path, limit=2)).samples) == 2


def test_digest_follows_what_can_change_a_score_and_nothing_else(tmp_path: Path) -> None:
    shots = tmp_path / "shots.jsonl"
    shots.write_text("\n".join(json.dumps({"question": f"Example {n}?", "answers": [f"x{n}"]}) for n in range(12)))
    path = write(tmp_path, QUESTION, OTHER)
    reference = load_suite("gold", SuiteSpec(path=path)).digest
    moved = tmp_path / "moved.jsonl"
    moved.write_text(path.read_text())
    assert load_suite("gold", SuiteSpec(path=moved)).digest == reference
    changed = [
        SuiteSpec(path=path, scorer=Contains()),
        SuiteSpec(path=path, system="Be brief."),
        SuiteSpec(path=path, max_tokens=5),
        SuiteSpec(path=path, scorer=TokenF1()),
        SuiteSpec(path=path, scorer=Regex()),
        SuiteSpec(path=path, scorer=Regex(whole=True)),
        SuiteSpec(path=path, templates=("Q: {question}",)),
        SuiteSpec(path=path, shots=1, shots_from=shots),
        SuiteSpec(path=path, shots=2, shots_from=shots),
        SuiteSpec(path=path, shots=1, shots_from=shots, shots_seed=3),
        SuiteSpec(path=path, limit=1),
    ]
    digests = {load_suite("gold", spec).digest for spec in changed}
    assert len(digests) == len(changed)
    assert reference not in digests


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "not JSON"),
        ("[1]", "a row is a JSON object, got list"),
        ("[" * 100_000, "nested too deeply"),
        ({"answers": ["12"]}, "either `question` or `messages`, got the fields `answers`"),
        ({**QUESTION, "messages": []}, "either `question` or `messages`"),
        ({"question": "  ", "answers": ["12"]}, "`question` must be a text"),
        ({"question": 5, "answers": ["12"]}, "`question` must be a text"),
        ({"messages": "hello", "answers": ["12"]}, "`messages` must be a list of turns"),
        ({"messages": [{"role": "robot", "content": "x"}], "answers": ["12"]}, "a turn is {role, content}"),
        ({"messages": [{"role": "assistant", "content": "x"}], "answers": ["12"]}, "must be a user turn"),
        ({"question": "Who?", "answer": "Bo"}, "needs `answers`; the row has `question`, `answer`"),
        ({"question": "Who?", "answers": "Bo"}, "`answers` must be a list of texts"),
        ({"question": "Who?", "answers": []}, "needs `answers`"),
        ({"question": "Who?", "answers": ["?!"]}, "at least one word"),
        ({**QUESTION, "id": ""}, "`id` must be a text"),
        ({**QUESTION, "id": True}, "`id` must be a text"),
        ({**QUESTION, "document": 3}, "`document` must be a text"),
        (OTHER, "the same question stands on line 1 already"),
        ({**QUESTION, "id": "one"}, "id `one` stands on line 2 already"),
    ],
)
def test_a_bad_row_is_named_with_file_and_line(tmp_path: Path, row: Any, said: str) -> None:
    path = write(tmp_path, OTHER, {"question": "Where?", "answers": ["here"], "id": "one"}, row)
    with pytest.raises(DataError) as caught:
        load_suite("gold", SuiteSpec(path=path))
    assert f"{path}:3: " in str(caught.value)
    assert said in str(caught.value)
    assert caught.value.valid
    assert caught.value.next_step


def test_all_bad_rows_are_told_at_once_and_many_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path, QUESTION, *["broken"] * 15)
    with pytest.raises(DataError, match="15 bad rows") as caught:
        load_suite("gold", SuiteSpec(path=path))
    assert f"{path}:2:" in str(caught.value)
    assert f"{path}:11:" in str(caught.value)
    assert "and 5 more" in str(caught.value)


def test_abstention_needs_no_answers(tmp_path: Path) -> None:
    path = write(tmp_path, {"question": "Who painted it?"})
    assert load_suite("unknown", SuiteSpec(path=path, scorer=Abstention())).samples[0].answers == ()


def test_odd_but_valid_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "suite.jsonl"
    line = json.dumps({"question": "one\u2028two", "answers": ["x"], "weight": float("nan")}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\r\n\r\n")
    assert load_suite("odd", SuiteSpec(path=path)).samples[0].question == "one\u2028two"


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "no samples"), (b"\n \n", "no samples"), (b'{"question": "\xff"}', "not UTF-8")]
)
def test_files_without_samples_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "suite.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        load_suite("gold", SuiteSpec(path=path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl") as caught:
        load_suite("gold", SuiteSpec(path=tmp_path / "gone.jsonl"))
    assert "suites.gold.path" in caught.value.next_step


def test_the_digest_follows_what_a_scorer_reads_of_a_row(tmp_path: Path) -> None:
    digests = []
    for source in ("The pump is red.", "The pump is green."):
        row = {**QUESTION, "id": "one", "source": source, "page": source}
        path = write(tmp_path, row)
        digests.append(load_suite("gold", SuiteSpec(path=path, scorer=Groundedness())).digest)
        plain = load_suite("gold", SuiteSpec(path=path)).digest
    assert len(set(digests)) == 2
    path = write(tmp_path, {**QUESTION, "id": "one"})
    assert load_suite("gold", SuiteSpec(path=path)).digest == plain


class TestTemplates:
    def test_each_sample_is_asked_in_each_wording(self, tmp_path: Path) -> None:
        braces = {"question": "What is {x}?", "answers": ["y"]}
        spec = SuiteSpec(
            path=write(tmp_path, braces, OTHER), templates=("{question}", "Q: {question}\nA:"), system="Hi."
        )
        first, second = requests_by_sample(load_suite("gold", spec), "model-1")
        assert [request.messages[-1].content for request in first] == ["What is {x}?", "Q: What is {x}?\nA:"]
        assert [request.messages[-1].content for request in second] == ["阀门在哪里?", "Q: 阀门在哪里?\nA:"]
        assert first[1].messages[0].content == "Hi."

    @pytest.mark.parametrize("templates", [("no place",), ("{question}", "{question}")])
    def test_a_template_without_a_place_or_given_twice_is_refused(self, templates: tuple[str, ...]) -> None:
        with pytest.raises(ValueError, match="template"):
            SuiteSpec(path=Path("x.jsonl"), templates=templates)


class TestShots:
    def pool(self, folder: Path, count: int = 8) -> Path:
        path = folder / "shots.jsonl"
        rows = [QUESTION, *({"question": f"Example {n}?", "answers": [f"x{n}", "other"]} for n in range(count))]
        path.write_text("\n".join(map(json.dumps, rows)))
        return path

    def turns(self, folder: Path, **fields: Any) -> list[tuple[str, str]]:
        spec = SuiteSpec.model_validate(
            {"path": write(folder, QUESTION, OTHER), "shots_from": self.pool(folder), **fields}
        )
        first, second = requests(load_suite("gold", spec), "model-1")
        assert first.messages[:-1] == second.messages[:-1]
        return [(message.role, message.content) for message in first.messages]

    def test_examples_stand_before_the_question_in_its_wording(self, tmp_path: Path) -> None:
        turns = self.turns(tmp_path, shots=2, templates=["Q: {question}"], system="Be brief.")
        assert [role for role, _ in turns] == ["system", "user", "assistant", "user", "assistant", "user"]
        assert turns[-1] == ("user", f"Q: {QUESTION['question']}")
        number = turns[1][1].removeprefix("Q: Example ").removesuffix("?")
        assert turns[2] == ("assistant", f"x{number}")

    def test_the_seed_chooses_and_the_suites_own_questions_are_never_among_them(self, tmp_path: Path) -> None:
        drawn = {seed: self.turns(tmp_path, shots=8, shots_seed=seed) for seed in (0, 0, 1)}
        assert drawn[0] == self.turns(tmp_path, shots=8, shots_seed=0)
        assert drawn[0] != drawn[1]
        assert all(sum(text == QUESTION["question"] for _, text in turns) == 1 for turns in drawn.values())

    def test_too_few_examples_are_refused_with_their_number(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="holds 8 examples that the suite does not ask"):
            self.turns(tmp_path, shots=9)

    @pytest.mark.parametrize("fields", [{"shots": 2}, {"shots_from": "shots.jsonl"}])
    def test_number_and_file_go_together(self, fields: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="go together"):
            SuiteSpec.model_validate({"path": "x.jsonl", **fields})

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        spec = SuiteSpec(path=write(tmp_path, QUESTION), shots=1, shots_from=tmp_path / "gone.jsonl")
        with pytest.raises(DataError, match=r"gone\.jsonl") as caught:
            load_suite("gold", spec)
        assert "suites.gold.shots_from" in caught.value.next_step


def test_a_table_or_a_directory_of_datasets_is_the_same_suite(tmp_path: Path) -> None:
    lines = write(tmp_path, QUESTION, OTHER)
    table = pa.Table.from_pylist([QUESTION, OTHER], schema=SCHEMA)
    pq.write_table(table, tmp_path / "suite.parquet")
    (tmp_path / "suite.json").write_text(json.dumps([QUESTION, OTHER]))
    hub = tmp_path / "hub" / "data"
    hub.mkdir(parents=True)
    pq.write_table(table, hub / "test-00000-of-00001.parquet")
    saved = tmp_path / "saved"
    saved.mkdir()
    with pa.OSFile(str(saved / "data-00000-of-00001.arrow"), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as stream:
        stream.write_table(table)
    suite = load_suite("gold", SuiteSpec(path=lines))
    for path in (tmp_path / "suite.parquet", tmp_path / "suite.json", tmp_path / "hub", saved):
        other = load_suite("gold", SuiteSpec(path=path))
        assert (other.samples, other.digest) == (suite.samples, suite.digest)


def test_a_bad_row_of_a_table_is_named_and_splits_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "suite.parquet"
    pq.write_table(pa.Table.from_pylist([QUESTION, {**OTHER, "question": " "}], schema=SCHEMA), path)
    with pytest.raises(DataError, match=r"suite\.parquet:2: `question` must be a text"):
        load_suite("gold", SuiteSpec(path=path))
    hub = tmp_path / "hub"
    hub.mkdir()
    for split in ("train", "test"):
        pq.write_table(pa.Table.from_pylist([QUESTION], schema=SCHEMA), hub / f"{split}.parquet")
    with pytest.raises(DataError, match="several splits"):
        load_suite("gold", SuiteSpec(path=hub))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="can't be read"):
        load_suite("gold", SuiteSpec(path=path))


def _many(folder: Path, count: int = 20) -> Path:
    return write(folder, *({"question": f"Question {n}?", "answers": [str(n)]} for n in range(count)))


def test_a_development_share_is_asked_by_no_gate_and_kept_from_training(tmp_path: Path) -> None:
    path = _many(tmp_path)
    whole = load_suite("gold", SuiteSpec(path=path))
    suite = load_suite("gold", SuiteSpec(path=path, development_share=0.3))
    assert (len(suite.samples), len(suite.development)) == (14, 6)
    asked = {sample.id for sample in suite.all_samples}
    chosen_on = suite.for_development()
    assert chosen_on.name == "gold:development"
    assert not asked & {sample.id for sample in chosen_on.samples}
    assert asked | {sample.id for sample in chosen_on.samples} == {sample.id for sample in whole.samples}
    assert sorted(questions(suite)) == sorted(questions(whole))
    assert len({whole.digest, suite.digest, chosen_on.digest}) == 3
    again = load_suite("gold", SuiteSpec(path=path, development_share=0.3))
    assert again == suite


def test_a_development_share_leaves_the_budget_to_the_gate(tmp_path: Path) -> None:
    spec = SuiteSpec(path=_many(tmp_path), limit=10, budget=18, development_share=0.5)
    suite = load_suite("gold", spec)
    assert (len(suite.samples), len(suite.reserve), len(suite.development)) == (5, 8, 5)
    grown = suite.grown(13)
    assert not {sample.id for sample in grown.samples} & {sample.id for sample in suite.development}
    assert grown.development == suite.development


def test_a_suite_without_a_development_share_is_not_chosen_on(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="flatters the gate") as refused:
        load_suite("gold", SuiteSpec(path=_many(tmp_path))).for_development()
    assert "development_share: 0.3" in refused.value.next_step
    with pytest.raises(DataError, match=r"`development_share: 0.1` of 3 rows is 0"):
        load_suite("gold", SuiteSpec(path=_many(tmp_path, 3), development_share=0.1))
