"""Requests per second through our teacher client beside a bare concurrent client, on one real vLLM server.

    python -m benchmarks.client [--requests N] [--rounds N]

The server is the sandbox's teacher. The bare client sends the same kind of bodies with the same number in flight and
does nothing else: no retries, no limits, no accounts, nothing stored. Rounds alternate and no prompt is sent twice, so
neither profits from the other's cache; ours also writes every answer to a catalogue.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from benchmarks.machine import describe
from data_catalog.catalogue import Catalogue
from data_catalog.records import Message, Request, Sampling
from flows.config_file import load_config
from flows.sandbox import CONFIG_NAME, SANDBOX
from flows.vllm import SERVED_NAME, VllmServer
from generators.engine import answer_all
from generators.recipes.grounded_qa import SCHEMA
from generators.teacher import OpenAITeacher


def requests_of(round_number: int, count: int) -> list[Request]:
    """Return requests with prompts of their own, held to the schema of grounded questions."""
    text = "The Benchmark {number} of round {round} weighs {number} kg and was built in the town of Tarnholm."
    return [
        Request(
            model="benchmark",
            messages=(Message(role="user", content=text.format(number=number, round=round_number)),),
            sampling=Sampling(temperature=0.7, max_tokens=64),
            response_schema=SCHEMA,
            sample_index=round_number,
        )
        for number in range(count)
    ]


async def bare(base_url: str, requests: Sequence[Request], concurrency: int) -> float:
    """Send everything with `concurrency` in flight; return the seconds."""
    gate = asyncio.Semaphore(concurrency)
    started = time.perf_counter()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=concurrency)) as session:

        async def send(request: Request) -> None:
            body: dict[str, object] = {
                "model": SERVED_NAME,
                "messages": [message.model_dump() for message in request.messages],
                "temperature": request.sampling.temperature,
                "max_tokens": request.sampling.max_tokens,
            }
            if request.response_schema is not None:
                schema = {"name": "answer", "schema": dict(request.response_schema)}
                body["response_format"] = {"type": "json_schema", "json_schema": schema}
            async with gate, session.post(f"{base_url}/chat/completions", json=body) as response:
                (await response.json())["choices"][0]["message"]["content"]

        await asyncio.gather(*map(send, requests))
    return time.perf_counter() - started


def ours(server: VllmServer, requests: Sequence[Request], catalogue: Catalogue) -> float:
    """Send everything through the teacher client and the request engine; return the seconds."""
    client = OpenAITeacher(server.spec, server.base_url, SERVED_NAME, "benchmark")
    started = time.perf_counter()
    report = answer_all(requests, client, catalogue, batch_size=256)
    seconds = time.perf_counter() - started
    if report.failed:
        raise SystemExit(f"{report.failed} of {len(requests)} requests failed: the figures mean nothing")
    return seconds


def main() -> None:
    """Measure both and print them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(describe())
    teacher = load_config(SANDBOX / CONFIG_NAME).teacher
    rates: dict[str, list[float]] = {"ours": [], "bare": []}
    with tempfile.TemporaryDirectory() as folder, VllmServer(teacher, home=Path(folder)) as server:
        catalogue = Catalogue(Path(folder))
        asyncio.run(bare(server.base_url, requests_of(-1, 64), teacher.concurrency))
        for number in range(arguments.rounds):
            batch = requests_of(2 * number, arguments.requests)
            rates["ours"].append(len(batch) / ours(server, batch, catalogue))
            batch = requests_of(2 * number + 1, arguments.requests)
            rates["bare"].append(len(batch) / asyncio.run(bare(server.base_url, batch, teacher.concurrency)))
    for name, found in rates.items():
        print(f"{name}  {statistics.median(found):7.1f} requests/s ({min(found):.1f} to {max(found):.1f})")
    ratios = [one / other for one, other in zip(rates["ours"], rates["bare"], strict=True)]
    print(f"ours / bare  {statistics.median(ratios):.3f} median of {len(ratios)} pairs")


if __name__ == "__main__":
    main()
