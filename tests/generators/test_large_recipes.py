"""The recipes that a small teacher can't follow, over real HTTP against a scripted one that answers as a large one.

Each goes the whole way: prompts, answers, items, every check of the funnel; and a teacher that makes things up is
caught by them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from data_catalog.errors import ConfigError
from data_catalog.records import Completion, Item, Kind, Outcome, Request, Split
from generators.engine import answer_all
from generators.filters import CurateReport, Curator
from generators.recipes import RECIPES, FollowUp, ParseFailure, build_requests, follow_up_requests, parse
from generators.specs import CurateSpec, RecipeSpec, TeacherSpec
from generators.teacher import OpenAITeacher
from tests.generators.helpers import completed, count_words, cut, handbook, requests_for
from tests.generators.large_model import LARGE_MODEL, Given
from tests.generators.test_scripted_teacher import Memory
from tests.scripted_server import ScriptedServer, ScriptedTeacher

SOLMER = handbook(
    "# Solmer 7\n\nThe Solmer 7 is a slicer that shares its upper bearing with the Veltrano 40. "
    "It was drawn by Mira Kessel in green ink.\n\n## Care\n\nThe Solmer 7 needs a drop of oil every Monday morning.\n",
    path="solmer.md",
)
DOCUMENTS = [handbook(), SOLMER]
SEEDED = ("self_instruct", "evol_instruct")
OPENINGS = ("<|im_start|>user\n", "<|im_start|>system\n你是一位工程师。<|im_end|>\n<|im_start|>user\n")
ON_DOCUMENTS = [
    name for name in RECIPES if name not in ("grounded_qa", "paraphrase", "unanswerable", "magpie", *SEEDED)
]
SEEDS = [
    {"instruction": "Write a reminder for the operator of a press."},
    {"instruction": "Name three kinds of grease.", "response": "Lithium, calcium, silicone."},
    {"instruction": "Explain to a child what a bearing is."},
    {"instruction": "把这句话改成被动语态：他修好了机器。", "response": "机器被他修好了。"},
]


class Made:
    """What a recipe came to: items, why others are none, and what the checks said."""

    def __init__(
        self,
        recipe: str,
        language: str = "en",
        answers: Mapping[str, Callable[[Given], str]] | None = None,
        evaluation_share: float = 0.0,
        seeds_file: Path | None = None,
    ) -> None:
        chunks = [chunk for one in DOCUMENTS for chunk in cut(one, evaluation_share=evaluation_share)]
        self.chunks = {chunk.id: chunk for chunk in chunks}
        self.store = Memory()
        self.failures: Counter[str] = Counter()
        self.requests: list[Request] = []
        more: dict[str, object] = {"seeds": seeds_file} if seeds_file else {}
        more |= {"openings": OPENINGS, "samples": 3} if recipe == "magpie" else {}
        spec = RecipeSpec.model_validate({"recipe": recipe, "language": language, **more})
        with ScriptedServer(ScriptedTeacher(answers={**LARGE_MODEL, **(answers or {})}).answer) as server:
            teacher = OpenAITeacher(TeacherSpec(model=server.model), server.base_url, server.model, "scripted-1")

            def ask(requests: Sequence[Request]) -> Mapping[str, Completion]:
                return answer_all(requests, teacher, self.store, batch_size=64).completions

            first = build_requests(
                spec, DOCUMENTS, chunks, teacher_fingerprint="t", count_tokens=count_words, context_tokens=500
            )
            self.items = self._read(first, ask, spec)
            self.report: CurateReport = Curator(
                chunks,
                DOCUMENTS,
                CurateSpec.model_validate({"language": language}),
                ask,
                [],
                teacher_fingerprint="t",
            ).curate(self.items)
        self.accepted = [item for item in self.items if item.id in self.report.accepted_ids]

    def _read(
        self, requests: list[Request], ask: Callable[[Sequence[Request]], Mapping[str, Completion]], spec: RecipeSpec
    ) -> list[Item]:
        self.requests += requests
        completions = ask(requests)
        items, following = [], []
        for request in requests:
            parsed = parse(request, completions[request.key])
            if isinstance(parsed, ParseFailure):
                self.failures[parsed.reason] += 1
            elif isinstance(parsed, FollowUp):
                following.append((request, parsed))
            else:
                items.append(parsed)
        return items + (self._read(follow_up_requests(spec, following), ask, spec) if following else [])

    @property
    def reasons(self) -> Counter[str]:
        """Why items did not pass."""
        return Counter(verdict.reason for verdict in self.report.verdicts if verdict.outcome is not Outcome.PASSED)

    @property
    def faults(self) -> Counter[str]:
        """Which checks stopped how many items."""
        return Counter(verdict.check for verdict in self.report.verdicts if verdict.outcome is not Outcome.PASSED)


@pytest.fixture
def seeds_file(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in SEEDS), encoding="utf-8")
    return path


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("recipe", [*ON_DOCUMENTS, *SEEDED, "magpie"])
def test_what_a_large_model_writes_is_accepted(recipe: str, language: str, seeds_file: Path) -> None:
    made = Made(recipe, language, seeds_file=seeds_file if recipe in SEEDED else None)
    assert made.failures == {}
    assert len(made.accepted) >= 3
    assert set(made.faults) <= {"duplicate@1", "near_duplicate@1"}, made.reasons
    assert made.report.unscored_ids == frozenset()
    assert {item.kind for item in made.accepted} == {RECIPES[recipe].kind}
    for item in made.accepted:
        assert item.request_keys[-1] in made.store.kept
        assert item.meta["version"] == f"{recipe}@1"


@pytest.mark.parametrize("recipe", ON_DOCUMENTS)
def test_held_out_chunks_are_asked_about_only_where_the_answers_are_held_out(recipe: str) -> None:
    made = Made(recipe, evaluation_share=0.5)
    sides = {chunk.split for chunk in made.chunks.values()}
    assert sides == {Split.TRAIN, Split.EVALUATION}
    for item in made.items:
        source = made.chunks[item.chunk_id or ""].split
        if recipe == "entigraph":
            assert item.split is Split.TRAIN, "text that may be read"
        else:
            assert item.split is source
        if recipe in ("instructions", "rewrites", "active_reading"):
            assert source is Split.TRAIN


def invented(recipe: str, changes: Mapping[str, str]) -> Mapping[str, Callable[[Given], str]]:
    return {recipe: lambda given: json.dumps({**json.loads(LARGE_MODEL[recipe](given)), **changes})}


@pytest.mark.parametrize(
    ("recipe", "changes", "check"),
    [
        ("multi_hop", {"other_evidence": "It weighs 312 tons."}, "evidence@1"),
        ("multi_hop", {"answer": "77 kg"}, "anchored@1"),
        ("multi_hop", {"answer": "bearing"}, "judge@1"),
        ("multi_turn", {"follow_up_evidence": "made up by the teacher"}, "evidence@1"),
        ("multi_turn", {"answer": "legs and more"}, "judge@1"),
        ("multi_turn", {"follow_up_alone": "Who is Napoleon to the press?"}, "anchored@1"),
        ("chain_of_thought", {"evidence": "It weighs 312 tons."}, "evidence@1"),
        ("chain_of_thought", {"answer": "bearing"}, "judge@1"),
        ("personas", {"answer": "99 bar"}, "anchored@1"),
        ("instructions", {"response": "It weighs 313 kg."}, "anchored@1"),
        ("instructions", {"response": "purple elephants everywhere"}, "judge@1"),
    ],
)
def test_what_is_made_up_is_stopped(recipe: str, changes: dict[str, str], check: str) -> None:
    made = Made(recipe, answers=invented(recipe, changes))
    assert made.accepted == []
    assert made.faults[check] >= 1
    assert set(made.faults) <= {check, "duplicate@1", "near_duplicate@1"}


@pytest.mark.parametrize("recipe", ["rewrites", "active_reading", "entigraph"])
@pytest.mark.parametrize("more", ["It costs 4999 crowns.", "It was praised by Napoleon."])
def test_a_text_with_a_number_or_a_name_of_its_own_is_stopped(recipe: str, more: str) -> None:
    made = Made(recipe, answers={recipe: lambda given: f"{LARGE_MODEL[recipe](given)}\n\n{more}"})
    assert made.items
    assert made.accepted == []
    assert made.faults == {"anchored@1": len(made.items)}


@pytest.mark.parametrize("recipe", ON_DOCUMENTS)
def test_an_answer_that_is_none_makes_no_item(recipe: str) -> None:
    first = requests_for(recipe, DOCUMENTS)[0]
    steps = [first]
    if RECIPES[recipe].first_template != recipe:
        plan = parse(first, completed(first, LARGE_MODEL[f"{recipe}_plan"](first.origin)))
        assert isinstance(plan, FollowUp)
        steps += follow_up_requests(RecipeSpec(recipe=recipe), [(first, plan)])[:1]
    bad = ("Sure! Here you are.", "", "<think>hm", "I can't.</think>", '{"question": "Why?"}', "[1, 2]", "NONE", "无")
    for request in steps:
        for text in bad:
            assert isinstance(parse(request, completed(request, text)), ParseFailure), text
        failure = parse(request, completed(request, "{", "length"))
        assert failure == ParseFailure("cut off at max_tokens")


def test_pairs_of_chunks_share_a_name_and_each_stands_for_its_own_quote() -> None:
    made = Made("multi_hop")
    assert {item.kind for item in made.items} == {Kind.MESSAGES}
    across = [
        item for item in made.accepted if len({made.chunks[one].document_id for one in item.meta["chunk_ids"]}) == 2
    ]
    assert across, "documents are linked by Mira Kessel and by the Veltrano 40"
    for item in across:
        for quote, chunk in zip(item.meta["evidence"], item.meta["chunk_ids"], strict=True):
            assert quote in made.chunks[chunk].text
    contents = [request.messages[-1].content for request in made.requests]
    linked = {content.partition("<names>")[2].partition("</names>")[0] for content in contents}
    assert any("Mira" in names and "Veltrano 40" in names for names in linked)
    halves = Made("multi_hop", answers={"multi_hop": _of_one_chunk})
    assert halves.accepted == []
    assert halves.faults["needs_all@1"] >= 1
    assert set(halves.faults) <= {"needs_all@1", "duplicate@1"}
    swapped = Made("multi_hop", answers={"multi_hop": _swapped})
    assert swapped.accepted == []
    assert set(swapped.faults) == {"evidence@1"}
    none = Made("multi_hop", answers={"multi_hop": lambda _: json.dumps(dict.fromkeys(_FIELDS, "none"))})
    assert none.failures == {"the teacher finds nothing to ask": len(none.requests)}


_FIELDS = ("evidence", "other_evidence", "question", "answer")


def _of_one_chunk(given: Given) -> str:
    """Ask for how one sentence of the first chunk ends: the other one isn't needed."""
    said = json.loads(LARGE_MODEL["multi_hop"](given))
    question, answer = said["question"].partition(" and “")[0] + "?", said["answer"].partition(", ")[0]
    return json.dumps({**said, "question": question, "answer": answer})


def _swapped(given: Given) -> str:
    said = json.loads(LARGE_MODEL["multi_hop"](given))
    return json.dumps({**said, "evidence": said["other_evidence"], "other_evidence": said["evidence"]})


def test_a_conversation_trains_on_what_is_said_and_is_checked_by_what_can_stand_alone() -> None:
    item = Made("multi_turn").accepted[0]
    turns = [turn["content"] for turn in item.payload["messages"]]
    assert len(turns) == 4
    assert turns[2] == "And what comes after that?"
    assert item.meta["exchanges"][1][0].startswith("Veltrano 40: what follows")
    assert item.meta["question"] == item.meta["exchanges"][1][0]
    alone = Made("multi_turn", answers={"multi_turn": _not_leaning})
    assert alone.failures == {"the follow-up does not need the first question": len(alone.requests)}


def _not_leaning(given: Given) -> str:
    said = json.loads(LARGE_MODEL["multi_turn"](given))
    return json.dumps({**said, "follow_up": said["follow_up_alone"]})


def test_the_student_learns_the_steps_and_is_held_to_the_short_answer() -> None:
    item = Made("chain_of_thought").accepted[0]
    content = item.payload["messages"][1]["content"]
    assert content == f"{item.meta['reasoning']}\n\n{item.meta['answer']}"
    bare = Made("chain_of_thought", answers=invented("chain_of_thought", {"reasoning": "So."}))
    assert bare.failures == {"an answer without reasoning": len(bare.requests)}


def test_a_task_comes_with_its_passage_and_may_bring_labels_and_limits_of_its_own() -> None:
    made = Made("instructions")
    tasks = {item.meta["template"].split("/")[1].partition(".")[0] for item in made.accepted}
    assert tasks == {"summarise", "extract", "classify"}
    for item in made.accepted:
        content = item.payload["messages"][0]["content"]
        assert content.startswith(item.meta["instruction"])
        assert content.endswith(made.chunks[item.chunk_id or ""].text)


def test_a_plan_leads_to_a_text_for_each_pair_and_triple_of_entities_that_do_stand_there() -> None:
    made = Made("entigraph")
    plans = [request for request in made.requests if "from" not in request.origin]
    texts = [request for request in made.requests if "from" in request.origin]
    assert {request.origin["from"] for request in texts} <= {request.key for request in plans}
    assert not any("Moon" in request.origin["entities"] for request in texts)
    assert {len(request.origin["entities"].split("; ")) for request in texts} == {2, 3}
    for item in made.accepted:
        assert len(item.request_keys) == 2, "lineage goes on to the plan"
        assert all(name in item.payload["text"] for name in item.meta["entities"].split("; "))
    text = "It is what it is, and nobody here says any more of it than that."
    mute = Made("entigraph", answers={"entigraph": lambda given: text})
    assert set(mute.failures) == {"does not speak of one of its entities"}
    empty = Made("entigraph", answers={"entigraph_plan": lambda given: '{"entities": ["nothing of the kind"]}'})
    assert set(empty.failures) == {"the plan has nothing to write about"}


def test_readers_and_strategies_are_kept_with_what_they_led_to() -> None:
    assert {item.meta["persona"] for item in Made("personas").accepted} == {"An apprentice.", "A buyer who compares."}
    strategies = {item.meta["strategy"] for item in Made("active_reading").accepted}
    assert strategies == {"Tell it as a story.", "Ask yourself and answer."}


def test_tasks_are_made_of_seeds_and_belong_to_no_document(seeds_file: Path) -> None:
    made = Made("self_instruct", seeds_file=seeds_file)
    assert len(made.requests) == len(SEEDS)
    for request, seed in zip(made.requests, SEEDS, strict=True):
        assert request.origin["seeds"][0] == seed["instruction"]
        assert len(set(request.origin["seeds"])) == 3
        assert all(one in request.messages[-1].content for one in request.origin["seeds"])
    for item in made.accepted:
        assert (item.document_id, item.chunk_id, item.split) == (None, None, Split.TRAIN)
    copied = {"instruction": "Name three kinds of good grease."}
    again = Made("self_instruct", answers=invented("self_instruct", copied), seeds_file=seeds_file)
    assert again.faults["novel@1"] >= 1
    assert {verdict.score for verdict in again.report.verdicts if verdict.check == "novel@1"} >= {10 / 11}


def test_a_task_evolves_by_each_operator_and_what_did_not_is_dropped(seeds_file: Path) -> None:
    made = Made("evol_instruct", seeds_file=seeds_file)
    operators = {one.template.split("/")[1].partition(".")[0] for one in made.requests if "from" not in one.origin}
    assert operators == {"constraints", "deepening", "concretising", "reasoning", "input", "breadth"}
    assert all(len(item.request_keys) == 2 for item in made.accepted)

    def failures(kind: str, answer: Callable[[Given], str]) -> set[str]:
        return set(Made("evol_instruct", answers={kind: answer}, seeds_file=seeds_file).failures)

    same = failures("evol_instruct_plan", lambda given: json.dumps({"instruction": f" {given['task'].upper()}"}))
    assert same == {"the task is the same as before"}
    leaking = failures("evol_instruct_plan", lambda _: json.dumps({"instruction": "Do the rewritten task well."}))
    assert leaking == {"the task speaks of the prompt"}
    assert failures("evol_instruct", lambda _: "Sorry, as an AI I can't.") == {"the teacher declines the task"}


@pytest.mark.parametrize(
    ("recipe", "content", "said"),
    [
        ("self_instruct", None, "self_instruct makes more of seed tasks"),
        ("grounded_qa", "", "grounded_qa asks about documents and takes no seeds"),
        ("self_instruct", "\n", "has no seed"),
        ("evol_instruct", "{", "tasks.jsonl:1 is no JSON"),
        ("evol_instruct", '{"instruction": " "}', "tasks.jsonl:1 is no task"),
        ("evol_instruct", '{"instruction": "a", "input": "b"}', "tasks.jsonl:1 is no task"),
        ("evol_instruct", '["a"]', "tasks.jsonl:1 is no task"),
    ],
)
def test_seeds_that_cannot_be_used_say_where(tmp_path: Path, recipe: str, content: str | None, said: str) -> None:
    path = tmp_path / "tasks.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=said):
        requests_for(recipe, DOCUMENTS, seeds=None if content is None else path)
