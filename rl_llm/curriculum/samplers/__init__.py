"""Which problems a step draws: one small class a rule."""

from rl_llm.curriculum.samplers.gaussian import Gaussian
from rl_llm.curriculum.samplers.greso import Greso
from rl_llm.curriculum.samplers.ladder import Ladder
from rl_llm.curriculum.samplers.pools import Pools
from rl_llm.curriculum.samplers.posterior import Posterior
from rl_llm.curriculum.samplers.protocol import Sampler
from rl_llm.curriculum.samplers.thompson import Thompson
from rl_llm.curriculum.samplers.uniform import Uniform

SAMPLERS: dict[str, type] = {
    "gaussian": Gaussian,
    "greso": Greso,
    "ladder": Ladder,
    "pools": Pools,
    "posterior": Posterior,
    "thompson": Thompson,
    "uniform": Uniform,
}

__all__ = [
    "SAMPLERS",
    "Gaussian",
    "Greso",
    "Ladder",
    "Pools",
    "Posterior",
    "Sampler",
    "Thompson",
    "Uniform",
]
