"""`tutelage export`."""

from __future__ import annotations

from pathlib import Path

import click

from flows.project import project_options

FORMATS = ("hf", "lora", "modelfile", "gguf", "mlflow")
"""The values of `flows.exporting.Format`, which a test compares: importing it would slow `--help` down."""


@click.command()
@click.argument("model")
@click.option("--to", "target", required=True, type=click.Path(path_type=Path), help="The new directory.")
@click.option(
    "--format",
    "kind",
    default="hf",
    show_default=True,
    type=click.Choice(FORMATS),
    help="hf: merged safetensors. lora: the adapter beside a named base, for vLLM and PEFT. modelfile: for Ollama. "
    "gguf: for llama.cpp. mlflow: for MLflow's clients.",
)
@click.option(
    "--converter",
    type=click.Path(path_type=Path, dir_okay=False),
    help="llama.cpp's convert_hf_to_gguf.py; by default from LLAMA_CPP_DIR or PATH.",
)
@click.option("--push", "repository", help="Then upload the directory to this Hugging Face repository, owner/name.")
@project_options
def export(
    model: str,
    target: Path,
    kind: str,
    converter: Path | None,
    repository: str | None,
    config: Path | None,
    home: Path | None,
) -> None:
    """Write a MODEL in the form that another program reads.

    MODEL is an id, the beginning of one, or a stage. Its files are verified first. The chat template goes along, with
    its hash in tutelage-export.json. The directory is written whole or not at all. --push makes a repository that is
    not there as a private one; HF_TOKEN has the token.
    """
    from flows.exporting import Format, export_model
    from flows.project import catalogue_home

    done = export_model(catalogue_home(config, home), model, target, Format(kind), converter=converter)
    click.echo(f"{done.model} written to {done.path} ({done.format})")
    for note in done.notes:
        click.echo(f"  {note}")
    if repository is not None:
        from flows.hub import push

        click.echo(push(done.path, repository, message=f"{done.model} ({done.format})"))
