"""`tutelage export`: another program's form of a registered model, whole, verified, with its chat template."""

from __future__ import annotations

import json
import os
import re
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from data_catalog.catalogue import Catalogue
from data_catalog.errors import ConfigError, MachineError, MissingDependency, RegistryError
from data_catalog.identity import file_sha256
from data_catalog.records import Message, ModelVersion, Request, Sampling
from data_catalog.registry import Registry
from flows.commands.export import FORMATS, export
from flows.exporting import RECORD, Exported, Format, chat_template, export_model
from flows.model_steps import stage_directory
from tests.flows.registered import damage, register_model

pytestmark = pytest.mark.slow  # imports transformers; each test by itself is quick


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.training.tiny import build_model

    return build_model(tmp_path_factory.mktemp("models") / "base", hidden=32, layers=1)


def register(home: Path, directory: Path, **lineage: Any) -> ModelVersion:
    return Registry(Catalogue(home)).register(directory, {"base": "weights-base", "stages": [], **lineage})


def answers(model: Path) -> list[str]:
    from training.inference import LocalCompleter

    requests = [
        Request(model="m", messages=(Message(role="user", content=text),), sampling=Sampling(max_tokens=16))
        for text in ("What colour is the rotor?", "And the valve of the Brixal?")
    ]
    found = {c.request_key: c.text for batch in LocalCompleter(model, "m").complete(requests) for c in batch}
    return [found[request.key] for request in requests]


def record_of(target: Path) -> Any:
    return json.loads((target / RECORD).read_text())


def check_record(done: Exported, version: ModelVersion, model: Path) -> None:
    record = record_of(done.path)
    template = chat_template(model)
    assert template is not None
    digest = sha256(template.encode()).hexdigest()
    assert (record["model"], record["format"]) == (version.id, done.format)
    assert record["chat_template_sha256"] == done.chat_template_sha256 == digest
    assert (done.path / "chat_template.jinja").read_text() == template
    present = {path.relative_to(done.path).as_posix() for path in done.path.rglob("*") if path.is_file()}
    assert set(record["files"]) == present - {RECORD}
    assert all(file_sha256(done.path / name) == digest for name, digest in record["files"].items())


def test_the_command_offers_the_formats_there_are(tmp_path: Path) -> None:
    assert tuple(Format) == FORMATS


def test_hf_loads_back_to_the_same_answers(tmp_path: Path, base: Path) -> None:
    version = register(tmp_path / "home", base)
    target = tmp_path / "out"
    result = CliRunner().invoke(export, [version.id[:14], "--to", str(target), "--home", str(tmp_path / "home")])
    assert result.exception is None, result.exception
    assert f"{version.id} written to {target} (hf)" in result.output
    check_record(Exported(version.id, "hf", target, record_of(target)["chat_template_sha256"]), version, base)
    assert answers(target) == answers(tmp_path / "home" / version.path)
    assert os.access(target / "config.json", os.W_OK), "a copy is its owner's to change"


def lora_model(home: Path, base: Path, *stages: dict[str, Any]) -> ModelVersion:
    """Register a model that LoRA stages made, with the runs and folders that they leave."""
    from tests.training.test_lora_export import stage as make_stage

    catalogue, start, sources = Catalogue(home), base, []
    for number, method in enumerate(stages):
        name = f"stage{number}"
        run = catalogue.start_step(f"train:{name}", f"fingerprint{number:06d}")
        folder = stage_directory(home, run.step, run.fingerprint)
        start = make_stage(start, folder, method).model
        catalogue.finish_step(run, {"train": {"method": method["name"]}})
        sources.append({"name": name, "run_id": run.id, "dataset_id": "dataset-1", "gate_id": None})
    return register(home, start, base_path=str(base), stages=sources)


def lora_answers(base: Path, adapter: Path, folder: Path) -> list[str]:
    """Return what PEFT's own loading of the adapter on the base answers, merged by PEFT."""
    import torch
    from peft import PeftModel

    from training.models import load_weights, open_source, write_model

    source = open_source(base, needs_chat_template=True)
    model = PeftModel.from_pretrained(load_weights(source, torch.float32), str(adapter)).merge_and_unload()
    write_model(model, source, folder / "by-peft")
    return answers(folder / "by-peft")


LORA = {"name": "lora", "rank": 4}


def test_lora_names_its_base_and_answers_on_it(tmp_path: Path, base: Path) -> None:
    home = tmp_path / "home"
    version = lora_model(home, base, LORA, {"name": "lora", "rank": 2})
    done = export_model(home, "candidate", tmp_path / "out", Format.LORA)
    check_record(done, version, base)
    config = json.loads((done.path / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"]) == (str(base), 6)
    expected = answers(home / version.path)
    assert expected != answers(base)
    assert lora_answers(base, done.path, tmp_path) == expected
    assert any("--max-lora-rank 8" in note for note in done.notes)


def test_lora_on_a_stage_of_another_method_names_that_stages_model(tmp_path: Path, base: Path) -> None:
    home = tmp_path / "home"
    version = lora_model(home, base, {"name": "full"}, LORA)
    done = export_model(home, version.id, tmp_path / "out", Format.LORA)
    named = Path(json.loads((done.path / "adapter_config.json").read_text())["base_model_name_or_path"])
    assert named == stage_directory(home, "train:stage0", "fingerprint000000") / "model"
    assert lora_answers(named, done.path, tmp_path) == answers(home / version.path)


def test_lora_of_a_model_that_is_none_or_whose_run_is_gone_is_refused(tmp_path: Path, base: Path) -> None:
    import shutil

    home = tmp_path / "home"
    full = lora_model(home, base, {"name": "full"})
    with pytest.raises(RegistryError, match="trained with full") as error:
        export_model(home, full.id, tmp_path / "out", Format.LORA)
    assert "--format hf" in error.value.next_step
    lora = lora_model(tmp_path / "other", base, LORA)
    shutil.rmtree(tmp_path / "other" / "stages")
    with pytest.raises(RegistryError, match="adapter of stage `stage0` is not at"):
        export_model(tmp_path / "other", lora.id, tmp_path / "out", Format.LORA)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_a_modelfile_names_a_model_that_answers_the_same(tmp_path: Path, base: Path) -> None:
    version = register(tmp_path / "home", base)
    done = export_model(tmp_path / "home", version.id, tmp_path / "out", Format.MODELFILE)
    check_record(done, version, base)
    text = (done.path / "Modelfile").read_text()
    (source,) = re.findall(r"^FROM (.*)$", text, re.MULTILINE)
    assert answers(done.path / source) == answers(base)
    assert str(done.chat_template_sha256) in text


CONVERTER = """
import pathlib, sys
model, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[sys.argv.index("--outfile") + 1])
assert (model / "config.json").is_file(), model
template = (model / "chat_template.jinja").read_bytes() if {keep} else b""
out.write_bytes(b"{magic}" + template)
sys.exit({status})
"""


def converter(folder: Path, *, keep: bool = True, magic: str = "GGUF", status: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    script = folder / "convert_hf_to_gguf.py"
    script.write_text(CONVERTER.format(keep=keep, magic=magic, status=status))
    script.chmod(0o755)
    return script


def test_gguf_is_made_by_the_converter_that_is_found(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = register(tmp_path / "home", base)
    converter(tmp_path / "llama.cpp")
    monkeypatch.setenv("LLAMA_CPP_DIR", str(tmp_path / "llama.cpp"))
    done = export_model(tmp_path / "home", version.id, tmp_path / "out", Format.GGUF)
    check_record(done, version, base)
    assert (done.path / "model.gguf").read_bytes().startswith(b"GGUF")


def test_gguf_without_the_converter_says_how_to_get_it(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = register(tmp_path / "home", base)
    monkeypatch.delenv("LLAMA_CPP_DIR", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    for given, said in ((None, "PATH have no"), (tmp_path / "none.py", "there is no")):
        with pytest.raises(MissingDependency, match=said) as error:
            export_model(tmp_path / "home", version.id, tmp_path / "out", Format.GGUF, converter=given)
        assert "git clone" in error.value.next_step


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [({"status": 3}, "status 3"), ({"magic": "NOPE"}, "no GGUF file"), ({"keep": False}, "chat template out of")],
)
def test_what_a_converter_did_not_do_is_not_called_an_export(
    tmp_path: Path, base: Path, behaviour: dict[str, Any], said: str
) -> None:
    version = register(tmp_path / "home", base)
    script = converter(tmp_path / "llama.cpp", **behaviour)
    with pytest.raises(MachineError, match=said):
        export_model(tmp_path / "home", version.id, tmp_path / "out", Format.GGUF, converter=script)
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore")  # MLflow's and, through it, transformers' own
def test_mlflows_own_clients_load_it_and_answer_the_same(tmp_path: Path, base: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra `mlflow` is in no lock")
    version = register(tmp_path / "home", base)
    done = export_model(tmp_path / "home", version.id, tmp_path / "out", Format.MLFLOW)
    check_record(done, version, base)
    loaded = mlflow.pyfunc.load_model(str(done.path))
    assert loaded.metadata.metadata["tutelage_model"] == version.id
    asked = {"messages": [{"role": "user", "content": "What colour is the rotor?"}], "max_tokens": 16}
    (answer,) = loaded.predict(asked)
    assert answer["choices"][0]["message"]["content"].strip() == answers(base)[0].strip()


def test_mlflow_that_is_not_installed_says_how_to_get_it(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = register(tmp_path / "home", base)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingDependency, match="needs MLflow") as error:
        export_model(tmp_path / "home", version.id, tmp_path / "out", Format.MLFLOW)
    assert "pip install '.[mlflow]'" in error.value.next_step
    assert not (tmp_path / "out").exists()


def test_altered_bytes_and_directories_in_use_are_refused(tmp_path: Path) -> None:
    version = register_model(tmp_path, "one")
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is in use"):
        export_model(tmp_path, version.id, target, Format.HF)
    assert (target / "mine.txt").read_text() == "mine"
    damage(tmp_path, version)
    with pytest.raises(RegistryError, match=r"model\.safetensors"):
        export_model(tmp_path, version.id, tmp_path / "other", Format.HF)


@pytest.mark.parametrize("kind", Format)
def test_a_base_with_an_adapter_beside_it_is_exported_as_nothing(tmp_path: Path, kind: Format) -> None:
    directory = tmp_path / "adapted"
    directory.mkdir()
    config = {"model_type": "tutelage_adapted", "method": {"name": "prefix_tuning"}}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "model.safetensors").write_bytes(b"\x02\x00\x00\x00\x00\x00\x00\x00{}")
    version = register(tmp_path / "home", directory)
    with pytest.raises(RegistryError, match="keeps a prefix_tuning beside its base"):
        export_model(tmp_path / "home", version.id, tmp_path / "out", kind)
