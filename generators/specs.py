"""What a user may ask of the generation side: documents, teacher, recipes, curation."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from data_catalog.records import Spec
from generators.sensitive import Sensitive


class DocumentsSpec(Spec):
    """Which documents are read and how they are cut."""

    paths: tuple[Path, ...] = Field(min_length=1)
    """Files or folders; a folder is read recursively."""
    include: tuple[str, ...] = (
        *("*.md", "*.markdown", "*.txt", "*.html", "*.htm", "*.xhtml", "*.pdf", "*.docx"),
        "*.zip",
    )
    """File name patterns inside folders and zips. Tables (`*.jsonl`, `*.csv`, `*.tsv`, `*.parquet`) are read where a
    pattern or `paths` names them: what lies beside documents is often questions."""
    chunk_tokens: int = Field(default=512, ge=16)
    """Longest chunk, in tokens of the student's tokenizer."""
    chunk_overlap: int = Field(default=0, ge=0)
    """Tokens that a chunk may repeat of the one before it, in whole sentences; at most half of `chunk_tokens`. Nothing
    is repeated across the evaluation split."""
    evaluation_share: float = Field(default=0.05, ge=0, le=0.5)
    """Share of chunks whose questions are held out for evaluation and never trained on."""
    withhold_sensitive: tuple[Sensitive, ...] = tuple(Sensitive)
    """A chunk that holds one of these is neither shown to the teacher nor trained on; `[]` withholds nothing."""
    text_column: str = "text"
    """Column (or key) of JSONL, CSV and Parquet that holds the text; each row is a document."""
    title_column: str = "title"
    """Column (or key) with the title of a row, where there is one."""
    encoding: str | None = None
    """Encoding of texts that are no UTF-8 and bear no mark, such as `gb18030`; null guesses or refuses."""
    max_bytes: int = Field(default=50_000_000, ge=1)
    """Largest file that is read; a larger one is refused by name and the others go on."""
    max_unpacked_bytes: int = Field(default=200_000_000, ge=1)
    """Most bytes that a zip, a DOCX or a Parquet file may unpack to."""
    max_pages: int = Field(default=2000, ge=1)
    """Most pages of a PDF."""
    max_seconds: int = Field(default=60, ge=1)
    """Processor seconds for a file that is parsed in a process of its own (all but text in UTF-8), or seconds without
    progress."""
    max_memory_mib: int = Field(default=1024, ge=64)
    """Memory for such a file, beside what its parser takes itself."""

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, encoding: str | None) -> str | None:
        if encoding is not None:
            try:
                # UTF-16 and its like can't decode two spaces, but they are known.
                with contextlib.suppress(UnicodeDecodeError):
                    b"  ".decode(encoding)
            except LookupError as error:
                raise ValueError(f"unknown encoding {encoding!r}; such as gb18030, big5, cp1252, latin-1") from error
        return encoding

    @model_validator(mode="after")
    def _leaves_room(self) -> Self:
        if self.chunk_overlap > self.chunk_tokens // 2:
            raise ValueError(
                f"chunk_overlap {self.chunk_overlap} is more than half of chunk_tokens {self.chunk_tokens}"
            )
        return self


class VllmSpec(Spec):
    """How the managed vLLM server is started; unused when the teacher has a `base_url`."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of weights and activations; `auto` takes what the model directory says."""
    max_model_len: int | None = Field(default=None, ge=64)
    """Longest prompt and answer together, in tokens; null takes the model's own limit."""
    kv_cache_gib: int = Field(default=1, ge=1)
    """CPU builds only: VLLM_CPU_KVCACHE_SPACE."""
    start_timeout: float = Field(default=600.0, gt=0)
    """Seconds until the first real one-token answer."""
    extra_args: tuple[str, ...] = ()
    """Further arguments of `python -m vllm.entrypoints.openai.api_server`."""


def endpoint_urls(base_url: str | Sequence[str]) -> tuple[str, ...]:
    """Return the endpoints that a `base_url` names: one, or several."""
    return (base_url,) if isinstance(base_url, str) else tuple(base_url)


class TeacherSpec(Spec):
    """The teacher model: a directory that a managed vLLM serves, or any OpenAI-compatible endpoint."""

    model: str
    """A model directory or hub name (managed), or the name the endpoint serves."""
    base_url: str | tuple[str, ...] | None = None
    """`http://host:port/v1`, or a list of endpoints that serve the same model and share the work; left out, Tutelage
    starts and ends a vLLM server of its own on loopback."""
    api_key_env: str | None = None
    """Name of the environment variable with the API key; the key itself never enters a file."""
    concurrency: int = Field(default=64, ge=1, le=4096)
    """Requests in flight at most, at each endpoint; how many it can take below that is found while it works."""
    request_timeout: float = Field(default=120.0, gt=0)
    """Seconds for one answer, from sending to the last byte. Endpoints that have stopped answering, all of them, get as
    long to come back before the run stops."""
    max_attempts: int = Field(default=4, ge=1, le=20)
    """Tries per request on 5xx, timeouts and broken answers; where the endpoint asks to slow down (429, 503), or dies
    under it, a try does not count."""
    retry_after_cap: float = Field(default=60.0, ge=0)
    """Longest Retry-After that is obeyed, in seconds."""
    failure_share: float = Field(default=0.2, ge=0, le=1)
    """Share of requests that may fail for good, of the whole job and of the last `failure_window`, before generation
    stops with an error; 1 never stops."""
    failure_window: int = Field(default=200, ge=10)
    """How many of the requests that ended last `failure_share` is also taken of. Those that failed in an earlier run
    are left out of it."""
    vllm: VllmSpec = VllmSpec()

    @field_validator("base_url")
    @classmethod
    def _names_endpoints(cls, base_url: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        urls = endpoint_urls(base_url) if base_url is not None else ("http://",)
        wrong = [url for url in urls if not url.startswith(("http://", "https://"))]
        if not urls or wrong or len({url.rstrip("/") for url in urls}) < len(urls):
            raise ValueError(f"`base_url` is one `http://host:port/v1` or a list of different ones, got {base_url!r}")
        return base_url


class RecipeSpec(Spec):
    """One recipe of the `generate` section."""

    recipe: str
    """The name of one of the product's recipes, such as `grounded_qa`, or a file `*.py` with one of your own
    (docs/recipes.md)."""
    templates: tuple[str, ...] = ()
    """Template files (`*.jinja`) relative to the configuration; empty means the product's own for the language."""
    first_templates: tuple[str, ...] = ()
    """The same for the first step of a recipe that asks in two (docs/recipes.md); `templates` are then the second's."""
    shots: int = Field(default=0, ge=0, le=16)
    """In-context examples in each prompt at most: 0 is zero-shot, 1 one-shot, more few-shot. They are chosen from
    `shots_from`, and all together have at most `generate.context_tokens`."""
    shots_from: str | None = None
    """The id of a dataset version of this project (`tutelage data list`), whose accepted items of this recipe are the
    examples; or a file `*.jsonl` of rows with the template's variables and `response`."""
    language: Literal["en", "zh"] = "en"
    """Which of the product's own templates are taken."""
    samples: int = Field(default=1, ge=1, le=64)
    """Completions per prompt and template; with a `target`, so many at a time."""
    target: int = Field(default=0, ge=0, le=1000)
    """Accepted items wanted of each sentence (or document); those that lack some are asked again, `samples` more per
    template, until they have them or reach `max_samples`. 0 asks once."""
    max_samples: int = Field(default=8, ge=1, le=1024)
    """Most completions per prompt and template that a `target` may take."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    """0 is greedy; with several samples it must be above 0 for them to differ."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling: the smallest set of tokens with this share of probability is drawn from."""
    max_tokens: int = Field(default=512, ge=1)
    """Longest answer in tokens; an answer that meets it counts as failed."""

    seeds: Path | None = None
    """A file `*.jsonl` of tasks, rows of `instruction` and, if you like, `response`: what `self_instruct` and
    `evol_instruct` make more of."""

    openings: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """`magpie`: how the teacher's chat template begins a user's turn, up to where the user writes, such as
    `"<|im_start|>user\\n"`; a system turn may stand before it. Each is gone on with `samples` times, or until `target`
    items are accepted of it."""

    @model_validator(mode="after")
    def _has_examples(self) -> Self:
        if bool(self.shots) != (self.shots_from is not None):
            raise ValueError("`shots` and `shots_from` go together: how many examples, and where they come from")
        source = self.shots_from or ""
        if source and not source.endswith(".jsonl") and not source.startswith("dataset-"):
            raise ValueError(
                f"shots_from {source!r} is neither a *.jsonl file nor the id of a dataset version (dataset-...); the "
                "newest version of a name changes from run to run, and with it every request"
            )
        return self

    @model_validator(mode="after")
    def _can_reach_its_target(self) -> Self:
        if self.target and self.max_samples < self.samples:
            raise ValueError(
                f"max_samples {self.max_samples} is less than samples {self.samples}, which are asked first"
            )
        if self.target and self.max_samples > 1 and self.temperature == 0:
            raise ValueError("with a target the temperature must be above 0: asked again, it would say the same again")
        return self


class CheckPromptSpec(Spec):
    """A check that asks the teacher: which template, how many tokens."""

    template: str = ""
    """Template file relative to the configuration; empty means the product's own."""
    max_tokens: int = Field(default=256, ge=1)
    """Longest answer in tokens; an answer that meets it counts as failed."""


class JudgeSpec(CheckPromptSpec):
    """The judge, and how it is tested at every run: some wrong answers are planted, and it has to refuse them."""

    planted: int = Field(default=40, ge=0, le=10_000)
    """Wrong answers that the judge is tested with: another number, an answer of another item, a claim added, another
    document; 0 tests nothing."""
    min_recall: float = Field(default=0.6, ge=0, le=1)
    """Share of them that it must refuse; below it the run stops, for what such a judge lets through says nothing."""


class CurateSpec(Spec):
    """The filters, in the order in which they run."""

    language: Literal["en", "zh"] = "en"
    """Which of the product's own check prompts are taken."""
    max_question_chars: int = Field(default=400, ge=1)
    """A longer question is rejected."""
    max_answer_chars: int = Field(default=1200, ge=1)
    """A longer answer is rejected."""
    max_text_chars: int = Field(default=6000, ge=1)
    """A longer generated text (for continued pretraining) is rejected."""
    evidence: bool = True
    """The evidence quote must stand in the chunk, white space folded."""
    anchored: bool = True
    """The numbers and names of a grounded question and its answer must stand in the chunk or its headings."""
    near_duplicate: float | None = Field(default=0.8, gt=0, le=1)
    """Jaccard similarity of five-word runs from which the later of two items is rejected, if both have the same numbers
    and names; null compares whole items only."""
    reject_sensitive: tuple[Sensitive, ...] = tuple(Sensitive)
    """An item that holds one of these is rejected, also where the teacher made it up; `[]` looks for nothing."""
    decontaminate_ngram: int = Field(default=8, ge=0, le=32)
    """An item sharing this many words in a row with an evaluation question is rejected; 0 compares whole questions."""
    judge: JudgeSpec | None = JudgeSpec()
    """The teacher judges the answer against the chunk; null leaves the judge out."""
    round_trip: CheckPromptSpec | None = CheckPromptSpec()
    """The teacher answers the question from the chunk alone; kept on agreement. Null leaves it out."""
    abstention_phrases: tuple[str, ...] = ("the text does not say", "文中没有提到", "文中未提及")
    """What the teacher answers when the chunk doesn't say."""
    minimum_items: int = Field(default=1, ge=1)
    """Fewer accepted items than this stop the run with the funnel and the likely cause."""


class GenerateSpec(Spec):
    """What the teacher is asked to write."""

    recipes: tuple[RecipeSpec, ...] = (
        RecipeSpec(recipe="grounded_qa"),
        RecipeSpec(recipe="paraphrase"),
        RecipeSpec(recipe="unanswerable"),
    )
    batch_size: int = Field(default=256, ge=1)
    """Completions made durable in one transaction."""
    context_tokens: int = Field(default=2048, ge=32)
    """Longest text of a whole document in a prompt that needs more than one chunk, in student tokens."""
    targets: tuple[Path, ...] = ()
    """Files written by `tutelage diagnose MODEL --write-target FILE`. As long as there are any, the teacher is newly
    asked about the chunks and documents that they name, and about nothing else."""
