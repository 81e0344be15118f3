"""A model in MLflow's format, as MLflow's own client writes it. MLflow is an extra: it is imported here alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import transformers

from data_catalog.errors import MissingDependency
from training.models import load_weights, open_source

TASK = "llm/v1/chat"
"""Conversations in and out, rendered with the model's own chat template."""


def save_mlflow(model: Path, target: Path, *, name: str, metadata: Mapping[str, str | None]) -> None:
    """Write `target` (empty or not there) so that `mlflow.transformers.load_model` and `mlflow.pyfunc` load it.

    Raises:
        MissingDependency: MLflow is not installed.
        TrainingError: the directory has no chat template, or can't be loaded.
    """
    try:
        import mlflow.transformers
    except ImportError as error:
        raise MissingDependency(
            f"--format mlflow needs MLflow: {error}", next_step="pip install '.[mlflow]', or use --format hf"
        ) from error
    source = open_source(model, needs_chat_template=True)
    loaded = load_weights(source, source.stored_dtype)
    # What MLflow calls the source; it would be looked up on the hub, and a path of this machine says nothing elsewhere.
    loaded.name_or_path = loaded.config._name_or_path = name
    mlflow.transformers.save_model(
        {"model": loaded, "tokenizer": source.tokenizer},
        path=str(target),
        task=TASK,
        model_config={"do_sample": False},  # as the gate asked it; the pipeline's own default samples
        metadata={key: value for key, value in metadata.items() if value is not None},
        pip_requirements=[f"transformers=={transformers.__version__}", f"torch=={torch.__version__}"],
    )
