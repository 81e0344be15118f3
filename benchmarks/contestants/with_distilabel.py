"""distilabel's turn in `benchmarks.generation`: a pipeline of one step. Runs in an environment that has distilabel."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration


def main() -> None:
    """Answer the job's prompts, in batches of as many as are to be in flight."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with Pipeline(name="benchmark", cache_dir=Path(job["work"]) / "cache") as pipeline:
        rows = LoadDataFromDicts(
            data=[{"instruction": prompt} for prompt in job["prompts"]], batch_size=job["concurrency"]
        )
        task = TextGeneration(
            llm=OpenAILLM(
                model=job["model"],
                base_url=job["base_url"],
                api_key="none",
                generation_kwargs={"temperature": job["temperature"], "max_new_tokens": job["max_tokens"]},
            ),
            input_batch_size=job["concurrency"],
        )
        rows >> task
    made = pipeline.run(use_cache=False)["default"]["train"]
    Path(job["answers"]).write_text(json.dumps(list(made["generation"])), encoding="utf-8")


if __name__ == "__main__":
    main()
