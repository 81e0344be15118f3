"""NeMo Data Designer's turn in `benchmarks.generation`: a seed column and a text column made from it.

Runs in an environment that has data-designer.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import data_designer.config as dd
import pandas as pd
from data_designer.interface import DataDesigner


def main() -> None:
    """Answer the job's prompts."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    provider = dd.ModelProvider(name="benchmark", endpoint=job["base_url"], provider_type="openai", api_key="none")
    model = dd.ModelConfig(
        alias="teacher",
        model=job["model"],
        provider="benchmark",
        inference_parameters=dd.ChatCompletionInferenceParams(
            temperature=job["temperature"],
            max_tokens=job["max_tokens"],
            max_parallel_requests=job["concurrency"],
        ),
        skip_health_check=True,
    )
    builder = dd.DataDesignerConfigBuilder(model_configs=[model])
    builder.with_seed_dataset(dd.DataFrameSeedSource(df=pd.DataFrame({"prompt": job["prompts"]})))
    builder.add_column(dd.LLMTextColumnConfig(name="answer", model_alias="teacher", prompt="{{ prompt }}"))
    designer = DataDesigner(artifact_path=Path(job["work"]) / "artifacts", model_providers=[provider])
    made = designer.create(builder, num_records=len(job["prompts"])).load_dataset()
    Path(job["answers"]).write_text(json.dumps(made["answer"].tolist()), encoding="utf-8")


if __name__ == "__main__":
    main()
