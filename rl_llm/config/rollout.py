"""The `rollout` section of a recipe."""

from typing import Literal

from rl_llm.config.base import (
    NamedPart,
    NonNegativeFloat,
    NonNegativeInt,
    OpenShare,
    PositiveFloat,
    PositiveInt,
    Section,
)

EngineName = Literal["auto", "transformers", "vllm", "vllm_server"]


class VllmSection(Section):
    """vLLM in the trainer's process tree: `rollout.engine: vllm`."""

    publish: Literal["adapter", "merged"] | None = None
    """How new weights reach vLLM: the adapter as it is, or merged into the model's weights, which
    are reloaded in place; null takes `adapter` on a GPU and `merged` on a CPU."""

    memory_fraction: OpenShare = 0.4
    """On a GPU: the share of its memory that vLLM takes, weights and key-value cache together."""

    kv_cache_gib: PositiveFloat = 2.0
    """On a CPU: the size of the key-value cache."""

    tensor_parallel_size: PositiveInt = 1
    """GPUs that share one copy of the model."""

    compile: bool | None = None
    """Compile the model and capture CUDA graphs: a slower start, faster tokens; null compiles on a
    GPU alone."""

    sleep: bool = True
    """On a GPU: give the memory back while the policy learns."""


class ServersSection(Section):
    """Stock vLLM servers, started by you: `rollout.engine: vllm_server`."""

    urls: list[str] = []
    """Where they answer, such as `http://node2:8000`."""

    adapter_dir: str | None = None
    """A folder that the trainer and every server see under the same path, through which adapters
    pass; null takes `adapters` in the run's folder."""

    api_key_env: str = "VLLM_API_KEY"
    """The environment variable that holds the servers' API key, if they ask for one."""

    max_in_flight: PositiveInt = 64
    """Completions asked of one server at once."""

    request_timeout_s: PositiveFloat = 600.0
    """A request that takes longer is asked of another server."""

    max_wait_s: PositiveFloat = 300.0
    """When no server answers: how long to wait for one before the run ends behind a checkpoint."""


class RolloutSection(Section):
    """How completions are generated."""

    engine: EngineName = "auto"
    """What generates: `transformers` in the trainer's own process, `vllm` in its process tree,
    `vllm_server` on servers of yours; `auto` takes vLLM where it is installed and there is a GPU,
    else transformers."""

    problems_per_step: PositiveInt = 32
    """Problems drawn in a step, over all ranks."""

    group_size: PositiveInt = 8
    """Completions of each problem."""

    max_new_tokens: PositiveInt = 256
    """A completion is cut after this many tokens."""

    temperature: NonNegativeFloat = 1.0
    """Of sampling, in training and in evaluation; 0 is greedy."""

    max_batch_rows: PositiveInt = 512
    """Completions generated at once on one rank; lower it when memory is short. Servers have
    `servers.max_in_flight` instead."""

    max_staleness: NonNegativeInt = 0
    """How many updates the weights that generate may lie behind: 0 generates and learns in turns, 1
    generates the next step's completions while this step's are learnt from."""

    correction: NamedPart | None = None
    """Weighs tokens by old / mu, the trainer's probability over the engine's: `none`, `tis`
    (truncated) or `mis` (masked); null takes `tis` under vLLM and under `max_staleness`, else
    `none`."""

    mismatch_alarm_nats: PositiveFloat | None = 0.1
    """Warn where the mean of |log old - log mu| over a step's tokens passes this, or, where older
    weights drew all of them, half of them count for nothing; null never warns."""

    vllm: VllmSection = VllmSection()
    servers: ServersSection = ServersSection()

    @property
    def used_correction(self) -> NamedPart:
        """The correction that is used, also where none is named; `engine: auto` is to be replaced
        by what it stands for before."""
        if self.correction is not None:
            return self.correction
        draws_apart = self.engine in ("vllm", "vllm_server") or self.max_staleness > 0
        return NamedPart(name="tis" if draws_apart else "none")

    def with_engine(self, engine: EngineName) -> "RolloutSection":
        """Return the section for the engine that `auto` stands for; settings of vLLM that it does
        not read go back to their defaults, as a recipe that names it may not have them."""
        vllm = self.vllm if engine == "vllm" else VllmSection()
        return self.model_copy(update={"engine": engine, "vllm": vllm})
