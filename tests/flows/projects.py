"""Small projects for the tests: a few documents, the scripted teacher, the sandbox's base as student."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
STUDENT = REPOSITORY / "examples" / "sandbox" / "models" / "base"

NAMES = ("Veltrano", "Brixal", "Ormund", "Tessaly", "Quindra", "Halvern")


def handbook(name: str, weight: int) -> str:
    """Return a document of two sections with four facts."""
    return (
        f"# {name} 40\n\n## Origin\n\nThe {name} 40 was designed by Ilsa Marn{name[:2].lower()}. "
        f"It was first built in the town of {name}holm.\n\n"
        f"## Ratings\n\nThe {name} 40 weighs {weight} kg. Its pump holds a pressure of {weight // 7} bar.\n"
    )


def write_documents(folder: Path, count: int = len(NAMES)) -> Path:
    """Write `count` handbooks into `folder/docs`."""
    documents = folder / "docs"
    documents.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(NAMES[:count]):
        (documents / f"{name.lower()}.md").write_text(handbook(name, 210 + 13 * number), encoding="utf-8")
    return documents


CONFIG = """\
project: test
documents: {{paths: [docs], chunk_tokens: 200, evaluation_share: 0.0}}
teacher: {{model: scripted, base_url: "{base_url}", concurrency: 4, request_timeout: 10, max_attempts: 2}}
student: {{model: {student}}}
generate:
  batch_size: 8
  recipes:
    - {{recipe: grounded_qa, samples: 1}}
    - {{recipe: paraphrase, samples: 1}}
    - {{recipe: unanswerable, samples: 1}}
suites:
  gold: {{path: gold.jsonl, max_tokens: 16}}
stages:
  - name: read
    train: {{stage: pretrain, method: full, learning_rate: 1.0e-3, epochs: 1, max_length: 128}}
    gate: []
  - name: learn
    train: {{stage: sft, method: lora, learning_rate: 4.0e-3, epochs: 2, max_length: 128}}
    gate: {gate}
"""


def write_project(folder: Path, base_url: str, *, gate: str = "[]", student: Path = STUDENT, count: int = 6) -> Path:
    """Write documents, one gold question and a configuration; return the configuration's path."""
    write_documents(folder, count)
    (folder / "gold.jsonl").write_text(
        '{"question": "Who drew the first plans of the Veltrano 40?", "answers": ["Ilsa Marnve"]}\n'
        '{"question": "In which town did the Brixal 40 begin?", "answers": ["Brixalholm"]}\n',
        encoding="utf-8",
    )
    path = folder / "tutelage.yaml"
    path.write_text(CONFIG.format(base_url=base_url, student=student, gate=gate), encoding="utf-8")
    return path


def tutelage(*arguments: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        check=False,
    )


def start_tutelage(*arguments: str | Path) -> subprocess.Popen[str]:
    """Start the command line without waiting for it."""
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *map(str, arguments)],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
