"""`tutelage diagnose --write-target`: what was failed becomes a file, and a run that names it asks about that alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from data_catalog.catalogue import Catalogue
from data_catalog.errors import ConfigError, DataError
from data_catalog.evaluation_records import SampleScore
from data_catalog.records import Outcome, Request
from data_catalog.registry import Registry
from flows import data_steps, pipeline
from flows.commands.diagnose import diagnose
from flows.config_file import load_config
from flows.context import RunContext
from flows.progress import RecordingReporter, SilentReporter
from flows.reporting import RunState
from flows.target_file import write_new
from generators.target import load_target
from tests.flows.projects import write_project
from tests.flows.test_improving import Talkative
from tests.scripted_server import ScriptedServer

FAILED = "Who drew the first plans of the Veltrano 40?"


@contextmanager
def made(path: Path) -> Iterator[tuple[RunContext, RunState]]:
    """The data of a run of this configuration; nothing is trained."""
    config = load_config(path)
    with pipeline.open_run(config, SilentReporter(), "test") as ctx:
        state = RunState(times=RecordingReporter(SilentReporter()))
        pipeline._make_data(ctx, state, evaluate_base=False)
        yield ctx, state


def register_failing(ctx: RunContext, state: RunState) -> None:
    """Register a model that was trained on the data and failed one question, on the Veltrano."""
    assert state.ingested is not None
    stage = ctx.config.stages[-1]
    dataset = data_steps.stage_dataset(ctx, stage, state.ingested, state.curated.accepted)
    rows = [(FAILED, "Ilsa Marnve", 0.0), ("In which town did the Brixal 40 begin?", "Brixalholm", 1.0)]
    ctx.catalogue.put_scores(
        "weights-1",
        "gold",
        [
            SampleScore(
                sample_id=question,
                question=question,
                answers=(answer,),
                completion="?",
                outcome=Outcome.PASSED if won else Outcome.FAILED,
                score=won,
            )
            for question, answer, won in rows
        ],
    )
    directory = ctx.home / "stages" / "learn"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"\x02\x00\x00\x00\x00\x00\x00\x00{}")
    lineage = {"stages": [{"name": "learn", "dataset_id": dataset.id, "model": "weights-1", "run_id": "run-1"}]}
    Registry(ctx.catalogue).register(directory, lineage)


def generation_requests(catalogue: Catalogue) -> dict[str, Request]:
    """Return the stored requests that recipes made, by key."""
    asked = (request for request in catalogue.requests(catalogue.answered_keys()) if "recipe" in request.origin)
    return {request.key: request for request in asked}


def name_target(path: Path, target: str) -> None:
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("  batch_size: 8\n", f"  batch_size: 8\n  targets: [{target}]\n"), encoding="utf-8")


@pytest.mark.slow
def test_a_run_with_a_target_asks_about_what_was_failed_and_nothing_else(tmp_path: Path) -> None:
    with ScriptedServer(Talkative().answer) as server:
        path = write_project(tmp_path, server.base_url, count=3)
        with made(path) as (ctx, state):
            register_failing(ctx, state)
            before, accepted = generation_requests(ctx.catalogue), {item.id for item in state.curated.accepted}
        written = tmp_path / "again.yaml"
        arguments = ["candidate", "--config", str(path), "--write-target", str(written), "--samples", "2"]
        done = CliRunner().invoke(diagnose, arguments)
        assert done.exit_code == 0, done.output
        assert "1 chunks and 0 documents state what 1 failed samples ask" in done.output
        target = load_target(written)
        assert [(entry.recipe, entry.first_sample, entry.samples) for entry in target.recipes] == [
            ("grounded_qa", 1, 2),
            ("paraphrase", 1, 2),
        ]
        assert "veltrano.md" in written.read_text(encoding="utf-8")

        # A fourth document has come, which an ordinary run would ask about.
        (tmp_path / "docs" / "tessaly.md").write_text(
            "# Tessaly 40\n\nThe Tessaly 40 weighs 300 kg.\n", encoding="utf-8"
        )
        name_target(path, "again.yaml")
        with made(path) as (ctx, state):
            after = generation_requests(ctx.catalogue)
            paths = {document.id: Path(document.path).name for document in ctx.catalogue.documents()}
            assert accepted < {item.id for item in state.curated.accepted}, "what was there before stays"
        fresh = [after[key] for key in after.keys() - before.keys()]
        assert fresh
        assert {paths[request.origin["document_id"]] for request in fresh} == {"veltrano.md"}
        assert {request.origin["chunk_id"] for request in fresh} == set(target.recipes[0].chunks)
        assert {request.sample_index for request in fresh} == {1, 2}
        sent = len(server.received)
        with made(path):
            assert len(server.received) == sent, "the same run again asks nothing"


@pytest.mark.slow
def test_the_second_target_begins_behind_the_first(tmp_path: Path) -> None:
    with ScriptedServer(Talkative().answer) as server:
        path = write_project(tmp_path, server.base_url, count=2)
        with made(path) as (ctx, state):
            register_failing(ctx, state)
        runner = CliRunner()
        runner.invoke(diagnose, ["candidate", "--config", str(path), "--write-target", str(tmp_path / "one.yaml")])
        name_target(path, "one.yaml")
        with made(path):
            pass
        runner.invoke(diagnose, ["candidate", "--config", str(path), "--write-target", str(tmp_path / "two.yaml")])
        assert {entry.first_sample for entry in load_target(tmp_path / "two.yaml").recipes} == {2}


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="is there already"):
        write_new(path, iter(["theirs"]))
    assert path.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("recipes: []", "recipes: Tuple should have at least 1 item"),
        ("recipes: [{recipe: grounded_qa}]", "neither `chunks` nor `documents`"),
        ("recipes: [{recipe: grounded_qa, chunk: [a]}]", "recipes.0.chunk: Extra inputs"),
        ("- [", "can't be read"),
        ("recipes: [{recipe: evol, chunks: [chunk-1]}]", "no recipe 'evol' with a temperature above 0"),
    ],
)
def test_a_target_that_is_none_is_refused_with_the_configuration(tmp_path: Path, content: str, said: str) -> None:
    path = write_project(tmp_path, "http://127.0.0.1:9/v1", count=1)
    name_target(path, "target.yaml")
    (tmp_path / "target.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert said in str(caught.value)
    assert "generate.targets[0]" in str(caught.value)


def test_a_target_whose_chunks_are_gone_stops_the_run(tmp_path: Path) -> None:
    with ScriptedServer(Talkative().answer) as server:
        path = write_project(tmp_path, server.base_url, count=1)
        name_target(path, "target.yaml")
        target = {"model": "model-1", "recipes": [{"recipe": "grounded_qa", "chunks": ["chunk-gone"]}]}
        (tmp_path / "target.yaml").write_text(yaml.safe_dump(target), encoding="utf-8")
        with pytest.raises(DataError, match="no chunk or document that can be asked about"), made(path):
            pass
        assert not server.received
