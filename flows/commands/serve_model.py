"""`tutelage serve-model`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from flows.commands.models import STAGES
from flows.project import project_options


@click.command(name="serve-model")
@click.option("--stage", default="production", show_default=True, type=click.Choice(STAGES), help="Stage to follow.")
@click.option(
    "--backend",
    default="local",
    show_default=True,
    type=click.Choice(("local", "vllm")),
    help="What loads the weights: a process of our own, for every method; or vLLM, for many clients.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address that the server is bound to.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="Port; 0: a free one.")
@click.option(
    "--canary",
    type=click.Path(path_type=Path, dir_okay=False),
    help="JSONL of questions that a version must answer before it is switched to: a suite's rows, `answers` optional. "
    "By default, what it answered right in the first suite of its gate.",
)
@click.option(
    "--canary-samples", default=16, show_default=True, type=click.IntRange(1, 1000), help="Questions asked at most."
)
@click.option(
    "--canary-share", default=0.9, show_default=True, type=click.FloatRange(0, 1), help="Share that must be right."
)
@click.option(
    "--drain-seconds",
    default=600.0,
    show_default=True,
    type=click.FloatRange(0),
    help="How long a replaced version may finish what it has begun.",
)
@click.option("--api-key-env", help="Environment variable with the key that clients must send; none by default.")
@click.option("--vllm-arg", "vllm_args", multiple=True, help="Further argument of vLLM's server; may be repeated.")
@project_options
def serve_model(
    stage: str,
    backend: Literal["local", "vllm"],
    host: str,
    port: int,
    canary: Path | None,
    canary_samples: int,
    canary_share: float,
    drain_seconds: float,
    api_key_env: str | None,
    vllm_args: tuple[str, ...],
    config: Path | None,
    home: Path | None,
) -> None:
    """Serve a stage's model over an OpenAI-compatible endpoint.

    Follows the stage: when it points to another version, that one is verified and loaded beside the old one, asked a
    canary set, and switched to; the old one ends once its requests are answered. A version that can't be loaded or
    fails the canary set is refused, with an entry in the registry's log, and the old one goes on answering. Runs until
    Ctrl-C, which ends everything it started.
    """
    from data_catalog.records import Stage
    from flows.project import catalogue_home
    from flows.serving.service import ServeOptions
    from flows.serving.service import serve_model as serve

    options = ServeOptions(
        stage=Stage(stage),
        backend=backend,
        host=host,
        port=port,
        canary=canary,
        canary_samples=canary_samples,
        canary_share=canary_share,
        drain_seconds=drain_seconds,
        api_key_env=api_key_env,
        vllm_args=vllm_args,
    )
    serve(catalogue_home(config, home), options, say=lambda line: click.echo(line, err=True))
