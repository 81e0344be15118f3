"""The configuration file: every problem at once, each with its place and what was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_catalog.errors import ConfigError
from flows.config_file import load_config

GOOD = """\
project: demo
documents:
  paths: [docs]
teacher: {model: some/teacher}
student: {model: student}
suites:
  gold: {path: gold.jsonl}
stages:
  - name: learn
    train: {stage: sft, method: lora}
    gate:
      - {suite: gold, require: better}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "config.json").write_text("{}")
    (tmp_path / "gold.jsonl").write_text('{"question": "?", "answers": ["!"]}\n')
    (tmp_path / "tutelage.yaml").write_text(GOOD)
    return tmp_path


def problems(folder: Path, text: str) -> str:
    path = folder / "tutelage.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return str(caught.value)


def test_paths_are_relative_to_the_file(folder: Path) -> None:
    config = load_config(folder / "tutelage.yaml")
    assert config.documents.paths == (folder / "docs",)
    assert config.student.model == folder / "student"
    assert config.suites["gold"].path == folder / "gold.jsonl"
    assert config.home == folder / ".tutelage"


def test_a_method_may_be_named_or_spelt_out(folder: Path) -> None:
    short = load_config(folder / "tutelage.yaml").stages[0].train.method
    (folder / "tutelage.yaml").write_text(GOOD.replace("method: lora", "method: {name: lora, rank: 16}"))
    assert load_config(folder / "tutelage.yaml").stages[0].train.method == short


def test_a_method_that_does_not_go_with_the_rest_is_refused_with_what_does(folder: Path) -> None:
    message = problems(folder, GOOD.replace("method: lora", "method: prefix_tuning, gradient_checkpointing: true"))
    assert "stages[0].train" in message
    assert "nearest that works: prefix_tuning with gradient_checkpointing: false" in message


def test_a_stage_must_be_able_to_start_from_the_one_before(folder: Path) -> None:
    second = "  - name: prefer\n    train: {stage: dpo, method: lora}\n"
    message = problems(folder, GOOD.replace("method: lora", "method: p_tuning") + second)
    assert "stages[1].train.method: the model carries an adapter of method p_tuning, which can't be merged" in message
    (folder / "tutelage.yaml").write_text(
        GOOD.replace("method: lora", "method: p_tuning") + second.replace("method: lora", "method: p_tuning")
    )
    assert len(load_config(folder / "tutelage.yaml").stages) == 2


def test_pairs_may_be_named_or_spelt_out_and_who_answers_must_be_there(folder: Path) -> None:
    def preferring(pairs: str) -> str:
        return f"{GOOD}  - name: prefer\n    train: {{stage: dpo, method: lora}}\n    data: {{pairs: {pairs}}}\n"

    message = problems(folder, preferring("[on_policy, {name: delta, rejected: smal}]"))
    assert "stages[1].data.pairs[1]: nobody is named 'smal'; there are: student, teacher" in message
    assert "a delta is between two models" in problems(folder, preferring("[{name: delta, rejected: teacher}]"))
    assert "names somebody twice" in problems(
        folder, preferring("[{name: aspect_ratings, answers: [student, student]}]")
    )
    assert "did you mean `margin`" in problems(folder, preferring("[{name: aspect_ratings, margins: 1}]"))
    message = problems(folder, preferring("[{name: aspect_ratings, template: gone.jinja}]"))
    assert f"stages[1].data.pairs[0].template: no template at {folder / 'gone.jinja'}" in message
    other = "judges: {other: {model: some/teacher}}\n"
    message = problems(folder, other + preferring("[{name: delta, rejected: other}]"))
    assert "stages[1].data.pairs[0]: both answers would be of the model 'some/teacher'" in message
    (folder / "tutelage.yaml").write_text(preferring("[on_policy, {name: delta, rejected: student}]"))
    pairs = load_config(folder / "tutelage.yaml").stages[1].data.pairs
    assert [spec.name for spec in pairs] == ["on_policy", "delta"]


REWARDED = """\
  - name: judge
    train: {stage: reward, method: lora}
  - name: reinforce
    train: {stage: ppo, method: lora}
"""


def test_a_reward_model_and_ppo_belong_together(folder: Path) -> None:
    judge, reinforce = REWARDED.split("  - name: reinforce")
    reinforce = "  - name: reinforce" + reinforce
    alone = GOOD[: GOOD.index("  - name: learn")] + judge
    assert "stages[0].train.stage: a reward model answers nothing" in problems(folder, alone)
    assert "stages[1].train.stage: ppo needs a stage with" in problems(folder, GOOD + reinforce)
    assert "stages[1].train.stage: ppo needs a stage with" in problems(folder, GOOD + reinforce + judge)
    gated = judge + "    gate: [{suite: gold, require: better}]\n" + reinforce
    assert "stages[1].gate: a reward model answers no suite" in problems(folder, GOOD + gated)
    (folder / "tutelage.yaml").write_text(GOOD + judge)  # for `curate.reward` of a later run
    assert [stage.train.stage for stage in load_config(folder / "tutelage.yaml").stages] == ["sft", "reward"]
    (folder / "tutelage.yaml").write_text(GOOD + REWARDED)
    assert [stage.train.stage for stage in load_config(folder / "tutelage.yaml").stages] == ["sft", "reward", "ppo"]


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_groups_of_answers_need_a_reward_model_only_where_it_judges_them(folder: Path, kind: str) -> None:
    judge, reinforce = REWARDED.replace("ppo", kind).split("  - name: reinforce")
    reinforce = "  - name: reinforce" + reinforce
    checked = reinforce.replace("method: lora", "method: lora, reward: {token_f1: 1, contains: 0.5}")
    both = reinforce.replace("method: lora", "method: lora, reward: {token_f1: 1, model: 0.5}")
    needed = (
        f"stages[1].train.stage: {kind} needs a stage with `train: {{stage: reward}}` before it, or another `reward`"
    )
    assert needed in problems(folder, GOOD + reinforce)
    assert needed in problems(folder, GOOD + both)
    assert "group_size: a group of 1 has no other answer" in problems(
        folder, GOOD + checked.replace("method: lora", "method: lora, group_size: 1")
    )
    for stages in (checked, judge + checked, judge + reinforce, judge + both):
        (folder / "tutelage.yaml").write_text(GOOD + stages)
        assert load_config(folder / "tutelage.yaml").stages[-1].train.stage == kind


def test_a_reward_model_is_not_what_the_next_stage_starts_from(folder: Path) -> None:
    """Nothing is carried over from it: a method that can't be merged may go on behind it as before it."""
    adapted = GOOD.replace("method: lora", "method: adapter")
    message = problems(folder, adapted + REWARDED)
    assert "stages[1].train.method: the model carries an adapter of method adapter" in message
    assert "stages[2].train.method: the model carries an adapter of method adapter" in message


def test_a_student_that_carries_an_adapter_is_known_by_it(folder: Path) -> None:
    carried = '{"model_type": "tutelage_adapted", "method": {"name": "adapter"}}'
    (folder / "student" / "config.json").write_text(carried)
    assert "stages[0].train.method: the model carries an adapter of method adapter" in problems(folder, GOOD)


@pytest.mark.parametrize(
    ("wrong", "place", "said"),
    [
        ("  path: [docs]", ":3:3", "documents.path: unknown key; did you mean `paths`?"),
        ("  paths: docs\n  chunk_tokens: many", ":4:3", "documents.chunk_tokens: input should be a valid integer"),
    ],
)
def test_a_misspelt_key_or_wrong_type_names_its_place(folder: Path, wrong: str, place: str, said: str) -> None:
    message = problems(folder, GOOD.replace("  paths: [docs]", wrong))
    assert place in message
    assert said in message


def test_a_misspelt_key_inside_a_tagged_union_lists_that_unions_keys(folder: Path) -> None:
    message = problems(folder, GOOD.replace("method: lora", "method: {name: lora, rnk: 3}, learning_rte: 1"))
    assert "stages[0].train.method.rnk: unknown key; did you mean `rank`?" in message
    assert "stages[0].train.learning_rte: unknown key; did you mean `learning_rate`?" in message


def test_a_key_given_twice_names_the_first_line(folder: Path) -> None:
    message = problems(folder, GOOD + "project: other\n")
    assert ":13:1  project: given twice; the first is on line 1" in message


def test_all_problems_are_told_at_once_in_the_order_of_the_file(folder: Path) -> None:
    text = GOOD.replace("project: demo", "project: A B").replace("require: better", "require: best")
    message = problems(folder, text + "extra: 1\n")
    assert "3 problems" in message
    assert message.index("project:") < message.index("gate[0].require") < message.index("extra: unknown key")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("paths: [docs]", "paths: [nowhere]", "documents.paths[0]: nothing at"),
        ("{model: student}", "{model: nowhere}", "student.model: no model directory at"),
        ("path: gold.jsonl", "path: none.jsonl", "suites.gold.path: no file at"),
        ("suite: gold,", "suite: silver,", "no suite named 'silver'; suites: gold"),
        ("{model: some/teacher}", "{model: ./teacher}", "teacher.model: no model directory at"),
        ("method: lora}", "method: lora}\n    data: {replay_share: 0.5}", "needs the top-level `replay` file"),
        ("require: better}", "require: at_least}", "`require: at_least` needs `against: limit`"),
        (
            "path: gold.jsonl",
            "path: gold.jsonl, shots: 2, shots_from: none.jsonl",
            "suites.gold.shots_from: no file at",
        ),
        ("path: gold.jsonl", "path: gold.jsonl, scorer: {name: numeric, tolerence: 1}", "did you mean `tolerance`?"),
        ("path: gold.jsonl", "path: gold.jsonl, scorer: f1", "does not match any of the expected tags"),
    ],
)
def test_what_must_exist_is_checked_before_anything_starts(folder: Path, old: str, new: str, said: str) -> None:
    assert said in problems(folder, GOOD.replace(old, new))


def test_two_stages_of_one_name_are_refused(folder: Path) -> None:
    stage = GOOD[GOOD.index("  - name: learn") :]
    assert "names must differ" in problems(folder, GOOD + stage)


@pytest.mark.parametrize(
    ("text", "said"), [("a: [1,", "not YAML"), ("", "documents: is missing"), ("- 1", "valid dict")]
)
def test_what_is_not_a_configuration_is_refused(folder: Path, text: str, said: str) -> None:
    assert said in problems(folder, text)


def test_a_missing_file_and_bytes_that_are_no_text_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration file"):
        load_config(folder / "none.yaml")
    (folder / "tutelage.yaml").write_bytes(b"project: \xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(folder / "tutelage.yaml")


def test_who_compares_meanings_needs_vectors_and_the_reverse(folder: Path) -> None:
    embedder = 'embedder: {model: some/embedder, base_url: "http://127.0.0.1:1/v1"}\n'
    message = problems(folder, GOOD + "curate: {semantic_duplicate: 0.9, semantic_contamination: 0.9}\n")
    assert "curate.semantic_duplicate: needs the top-level section `embedder`" in message
    assert "curate.semantic_contamination: needs the top-level section `embedder`" in message
    assert "embedder: nothing asks for vectors; set one of semantic_duplicate" in problems(folder, GOOD + embedder)
    assert "an embedder needs a `base_url`" in problems(folder, GOOD + "embedder: {model: some/embedder}\n")
    (folder / "tutelage.yaml").write_text(GOOD + embedder + "curate: {semantic_duplicate: 0.9}\n")
    assert load_config(folder / "tutelage.yaml").curate.semantic_duplicate == 0.9


def test_the_reward_filter_needs_a_reward_model(folder: Path) -> None:
    wanted = GOOD + "curate: {reward: {model: WHERE, keep: 0.8}}\n"
    assert "curate.reward.model: no model directory at" in problems(folder, wanted.replace("WHERE", "gone"))
    assert "is no reward model" in problems(folder, wanted.replace("WHERE", "student"))
    assert "give one of `keep`" in problems(folder, GOOD + "curate: {reward: {model: student}}\n")
    (folder / "judge").mkdir()
    (folder / "judge" / "config.json").write_text('{"architectures": ["LlamaForSequenceClassification"]}')
    (folder / "tutelage.yaml").write_text(wanted.replace("WHERE", "judge"))
    spec = load_config(folder / "tutelage.yaml").curate.reward
    assert spec is not None
    assert spec.model == folder / "judge"


def test_the_selection_takes_templates_and_vectors_where_there_are_any(folder: Path) -> None:
    wanted = GOOD + "curate: {select: {items: 5, quality_template: mine.jinja}}\n"
    assert f"curate.select.quality_template: no template at {folder / 'mine.jinja'}" in problems(folder, wanted)
    (folder / "mine.jinja").write_text("{{ question }} {{ answer }}")
    (folder / "tutelage.yaml").write_text(
        f'embedder: {{model: some/embedder, base_url: "http://127.0.0.1:1/v1"}}\n{wanted}'
    )
    spec = load_config(folder / "tutelage.yaml").curate.select
    assert spec is not None
    assert spec.quality_template == str(folder / "mine.jinja")
