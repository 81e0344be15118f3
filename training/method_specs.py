"""The fine-tuning methods as a user may ask for them: their settings, and what is known of each before it is run.

Light: imports neither torch nor PEFT. What a method does stands in `training.methods`, one file each. Sources are the
papers named in the docstrings; what the data should be like is a rule of thumb, each with its source.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from data_catalog.records import Spec

_LORA_DATA = "hundreds to 100,000 examples; above that LoRA's capacity may not do (LoRA Without Regret)"
_PROMPT_DATA = "under a thousand examples, or many tasks on one base (arXiv 2104.08691, 2110.07602)"


class MethodSettings(Spec):
    """What all methods share: what is known of them without running them."""

    sits: ClassVar[str]
    """Where the trained parameters are."""
    merges: ClassVar[bool] = True
    """Whether the result is an ordinary model; otherwise base and adapter are kept side by side in one directory."""
    wants: ClassVar[str]
    """How much data it is for, with the source."""
    packs: ClassVar[bool] = True
    """Whether several rows may share one line of a batch."""
    recomputes: ClassVar[bool] = True
    """Whether gradient checkpointing works with it."""

    @property
    def virtual_tokens(self) -> int:
        """How many positions of the model's context the method takes for itself."""
        return 0

    @property
    def rate_ratio(self) -> float:
        """How much faster LoRA's B is trained than its A (LoRA+); 1 for all other methods."""
        return 1.0


class FullSpec(MethodSettings):
    """All weights are trained."""

    sits: ClassVar[str] = "every weight"
    wants: ClassVar[str] = "a lot of data and hardware; the only one without a limit to what it can take in"

    name: Literal["full"] = "full"


class LowRankSettings(MethodSettings):
    """What `lora` and `qlora` share."""

    sits: ClassVar[str] = "beside every linear layer but the output head: W + B·A"
    wants: ClassVar[str] = _LORA_DATA

    rank: int = Field(default=16, ge=1)
    """Inner dimension of the adapters: 4 to 8 for simple tasks, 32 to 64 for hard ones. Default because it lies
    between."""
    alpha: int = Field(default=32, ge=1)
    """Adapters are scaled by `alpha / rank`; twice the rank is usual. Default from LoRA Without Regret."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout before the adapters; 0.1 to 0.3 on little data. Default from arXiv 2305.14314, for its larger models."""
    rank_stabilised: bool = False
    """rsLoRA: scale by `alpha / sqrt(rank)`, so that high ranks keep learning (arXiv 2312.03732)."""
    dora: bool = False
    """DoRA: train the length of each output's weights apart from their direction (arXiv 2402.09353)."""
    b_rate_ratio: float = Field(default=1.0, ge=1)
    """LoRA+: B's learning rate is this many times A's; 16 is usual (arXiv 2402.12354). Default because 1 is plain
    LoRA."""

    @property
    def rate_ratio(self) -> float:
        """How much faster B is trained than A."""
        return self.b_rate_ratio


class LoraSpec(LowRankSettings):
    """Low-rank adapters on every linear layer (arXiv 2106.09685)."""

    name: Literal["lora"] = "lora"
    init: Literal["zero", "pissa", "olora"] = "zero"
    """What the adapters start as. `zero`: B is 0. `pissa`: the largest singular directions of each weight (arXiv
    2404.02948). `olora`: the first directions of its QR decomposition (arXiv 2406.01775)."""

    @model_validator(mode="after")
    def _dora_starts_from_zero(self) -> Self:
        if self.dora and self.init != "zero":
            raise ValueError(
                f"dora can't start from {self.init}: its lengths would be those of the residual weights; "
                "nearest that works: dora with init: zero, or this init without dora"
            )
        return self


class QloraSpec(LowRankSettings):
    """LoRA on a base quantised to 4-bit NF4 with double quantisation (arXiv 2305.14314)."""

    sits: ClassVar[str] = "beside every linear layer of a 4-bit base: W + B·A"

    name: Literal["qlora"] = "qlora"


class AdapterSpec(MethodSettings):
    """Bottleneck layers behind each block: down-projection, non-linearity, up-projection, added to what came in."""

    sits: ClassVar[str] = "new layers behind the feed-forward (and attention) block of each layer"
    merges: ClassVar[bool] = False
    wants: ClassVar[str] = "tasks that are plugged in and out; 1,000 examples and more (arXiv 1902.00751)"

    name: Literal["adapter"] = "adapter"
    placement: Literal["pfeiffer", "houlsby"] = "pfeiffer"
    """`pfeiffer`: behind the feed-forward block (arXiv 2005.00247). `houlsby`: also behind attention (arXiv
    1902.00751)."""
    size: int = Field(default=64, ge=1)
    """Width of the bottleneck. Default from arXiv 1902.00751: the middle one of 8, 64 and 256."""
    activation: Literal["relu", "gelu", "silu"] = "relu"
    """The non-linearity between the projections."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the bottleneck; 0.1 to 0.3 on little data. Default because a few units have little to
    overfit with."""


class SoftPromptSettings(MethodSettings):
    """What the methods share that train virtual tokens and leave the model as it is."""

    merges: ClassVar[bool] = False
    wants: ClassVar[str] = _PROMPT_DATA
    packs: ClassVar[bool] = False

    tokens: int = Field(default=20, ge=1, le=1024)
    """Virtual tokens: 10 to 20 for classification, 20 to 100 for generation. They take up context. Default from arXiv
    2104.08691: more than 20 gained little."""

    @property
    def virtual_tokens(self) -> int:
        """How many positions of the model's context the prompt takes."""
        return self.tokens


class PromptTuningSpec(SoftPromptSettings):
    """Trainable vectors before the embedded input (arXiv 2104.08691)."""

    sits: ClassVar[str] = "before the input embeddings"

    name: Literal["prompt_tuning"] = "prompt_tuning"
    init: Literal["random", "text", "sample_vocab"] = "sample_vocab"
    """What the vectors start as: `random` numbers, the embeddings of `text`, or those of random tokens."""
    text: str | None = Field(default=None, min_length=1)
    """`init: text`: the task in a few words; repeated or cut to `tokens` tokens."""

    @model_validator(mode="after")
    def _text_goes_with_init(self) -> Self:
        if (self.init == "text") != (self.text is not None):
            raise ValueError(f"`text` goes with `init: text`, got init: {self.init} and text: {self.text!r}")
        return self


class PrefixTuningSpec(SoftPromptSettings):
    """Trainable keys and values before those of each layer, made by an MLP (arXiv 2101.00190)."""

    sits: ClassVar[str] = "before the keys and values of every layer, through an MLP"
    recomputes: ClassVar[bool] = False

    name: Literal["prefix_tuning"] = "prefix_tuning"
    hidden: int | None = Field(default=None, ge=1)
    """Width of the MLP; by default the model's."""


class PTuningSpec(SoftPromptSettings):
    """Trainable vectors before the input, made by a small network (arXiv 2103.10385)."""

    sits: ClassVar[str] = "before the input embeddings, through an encoder"

    name: Literal["p_tuning"] = "p_tuning"
    encoder: Literal["mlp", "lstm"] = "lstm"
    """The network: three linear layers, or a bidirectional LSTM of two layers with two linear ones behind it."""
    hidden: int | None = Field(default=None, ge=1)
    """Width of the network; by default the model's."""


class PTuningV2Spec(SoftPromptSettings):
    """Trainable keys and values before those of each layer, trained as they are (arXiv 2110.07602)."""

    sits: ClassVar[str] = "before the keys and values of every layer"
    recomputes: ClassVar[bool] = False

    name: Literal["p_tuning_v2"] = "p_tuning_v2"


class Ia3Spec(MethodSettings):
    """Keys, values and the inner feed-forward activations are rescaled by trained vectors (arXiv 2205.05638)."""

    sits: ClassVar[str] = "one factor per key, value and inner feed-forward channel"
    wants: ClassVar[str] = "tens to hundreds of examples (arXiv 2205.05638)"

    name: Literal["ia3"] = "ia3"


AnyMethod = (
    FullSpec
    | LoraSpec
    | QloraSpec
    | AdapterSpec
    | PromptTuningSpec
    | PrefixTuningSpec
    | PTuningSpec
    | PTuningV2Spec
    | Ia3Spec
)


def _method_by_name(value: Any) -> Any:
    """Let `method: lora` stand for `method: {name: lora}`."""
    return {"name": value} if isinstance(value, str) else value


MethodSpec = Annotated[Annotated[AnyMethod, Field(discriminator="name")], BeforeValidator(_method_by_name)]
