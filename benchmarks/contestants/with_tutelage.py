"""Tutelage's turn in `benchmarks.generation`: the teacher's client and the request engine, with a catalogue."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from data_catalog.catalogue import Catalogue
from data_catalog.records import Message, Request, Sampling
from generators.engine import answer_all
from generators.specs import TeacherSpec
from generators.teacher import OpenAITeacher


def main() -> None:
    """Answer the job's prompts."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    requests = [
        Request(
            model="benchmark",
            messages=(Message(role="user", content=prompt),),
            sampling=Sampling(temperature=job["temperature"], max_tokens=job["max_tokens"]),
        )
        for prompt in job["prompts"]
    ]
    spec = TeacherSpec(model=job["model"], base_url=job["base_url"], concurrency=job["concurrency"])
    teacher = OpenAITeacher(spec, job["base_url"], job["model"], "benchmark")
    report = answer_all(requests, teacher, Catalogue(Path(job["work"])), batch_size=256)
    answers = [report.completions[request.key].text for request in requests if request.key in report.completions]
    Path(job["answers"]).write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    main()
