"""What a reward does with its own examples, and with completions that nobody would write."""

import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rl_llm.config import RewardUse
from rl_llm.errors import PluginError
from rl_llm.plugins import Plugin
from rl_llm.records import Group
from rl_llm.scoring.examples import Example, bind_example, place_of_examples, read_examples
from rl_llm.scoring.pool import WorkerPool
from rl_llm.scoring.reward import Failure, Outcome, Reward
from rl_llm.scoring.rubric import absolute_reference, prepare
from rl_llm.scoring.signature import (
    COMPLETION_INPUTS,
    GROUP_INPUTS,
    PROBLEM_INPUTS,
    TRL_INPUTS,
    read_signature,
)

ODD_COMPLETIONS = {
    "empty": "",
    "white space": " \n\t\r\n ",
    "a million characters": "word " * 200_000,
    "a million digits": "9" * 1_000_000,
    "a number beyond floats": "1e999999999 and <answer>-1e-999999999</answer>",
    "not ASCII": "½ + ٣ = \uff13.\uff15, 答えは七 ﷽ 🧮 e\u0301 \u202e71\u202c \u2212\u221e",
    "control characters": "\x00\x07\x1b[31m7\x7f\ufeff",
    "half a character": "\ud83d 7 \udc80",
    "100,000 open brackets": "(" * 50_000 + "[" * 50_000,
    "50,000 open boxes": "\\boxed{" * 50_000,
    "50,000 open tags": "<answer>" * 50_000 + "<think>" * 50_000,
    "what makes backtracking slow": "a" * 50_000 + "!" + "1," * 25_000 + " " * 50_000 + "x",
    "code that exits": "__import__('os')._exit(1)",
    "a sum that never ends": "9**9**9**9",
    "a template": "{completion} %s %(answer)s ${answer} {{7}} {0.__class__}",
    "markup": "<answer><![CDATA[7]]></answer><!-- <answer>7</answer> --> &#55;",
}
"""What a model may write some day, and what breaks rewards that are not written for it."""

_MAX_ODD_TOKENS = 1000
MAX_TIMEOUTS = 3
"""So many calls may run into their limit of time; others are not tried then."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One call to try: `expected` is there where an example says it."""

    name: str
    reward: Reward
    group: Group
    has_expected: bool = False
    expected: Any = None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a reward gave for a case, and gave when it was asked again, behind all others.

    `again` is None where the first call took too long or broke its worker.
    """

    case: Case
    first: Sequence[Outcome]
    again: Sequence[Outcome] | None
    seconds: float

    @property
    def failure(self) -> Failure | None:
        """The first failure, if there is one."""
        return next((each for each in self.first if isinstance(each, Failure)), None)

    @property
    def is_pure(self) -> bool:
        """Whether both calls gave the same."""
        return self.again is None or list(map(_plain, self.first)) == list(map(_plain, self.again))

    @property
    def is_as_expected(self) -> bool:
        """Whether an example gave what it says; True for what says nothing."""
        expected = self.case.expected
        wanted = expected if isinstance(expected, list) else [expected]
        return not self.case.has_expected or list(self.first) == wanted


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that was tried of a reward; `num_untried` calls were left out behind MAX_TIMEOUTS."""

    examples: Sequence[Trial] = field(default_factory=list)
    odd: Sequence[Trial] = field(default_factory=list)
    num_untried: int = 0

    @property
    def trials(self) -> list[Trial]:
        """Examples and odd completions."""
        return [*self.examples, *self.odd]

    @property
    def median_s(self) -> float:
        """The time of a call in the middle, over the examples where there are any."""
        return statistics.median(each.seconds for each in self.examples or self.odd)

    @property
    def slowest(self) -> Trial:
        """The call that took longest."""
        return max(self.trials, key=lambda trial: trial.seconds)


def try_reward(plugin: Plugin, use: RewardUse) -> Report:
    """Call a reward in a worker, as a run would, on its examples and on odd completions, and then
    on all of them once more in reverse.

    Raises `PluginError` where it cannot be called without examples: for options, or for columns of
    the data; and what its `before_run` raises.
    """
    examples = read_examples(plugin)
    place, _ = place_of_examples(plugin)
    example_cases = [
        _case(plugin, use, example, name=f"{place}[{index}]", has_expected=True)
        for index, example in enumerate(examples)
    ]
    odd_cases = list(_odd_cases(plugin, use, examples))
    prepare(
        plugin,
        odd_cases[0].reward.options,
        path=use.use,
        timeout_s=use.timeout_s,
    )
    pool = WorkerPool(1)
    cases = [*example_cases, *odd_cases]
    try:
        tried = _try_twice(pool, cases)
    finally:
        pool.close()
    return Report(
        examples=tried[: len(examples)],
        odd=tried[len(examples) :],
        num_untried=len(cases) - len(tried),
    )


def _try_twice(pool: WorkerPool, cases: Sequence[Case]) -> list[Trial]:
    if cases:
        _call(pool, cases[0])  # Loads the file, and takes part in no time.
    first: list[tuple[list[Outcome], float]] = []
    while len(first) < len(cases) and _count_failed(first, "timeout") < MAX_TIMEOUTS:
        first.append(_call(pool, cases[len(first)]))
    cases = cases[: len(first)]
    again: dict[str, Sequence[Outcome]] = {}
    for case, call in zip(reversed(cases), reversed(first), strict=True):
        if not _count_failed([call], "timeout", "killed"):
            again[case.name] = _call(pool, case)[0]
    return [
        Trial(case=case, first=outcomes, again=again.get(case.name), seconds=seconds)
        for case, (outcomes, seconds) in zip(cases, first, strict=True)
    ]


def _count_failed(calls: Iterable[tuple[Sequence[Outcome], float]], *kinds: str) -> int:
    """Return of how many calls an outcome is a failure of one of these kinds."""
    return sum(
        any(isinstance(outcome, Failure) and outcome.kind in kinds for outcome in outcomes)
        for outcomes, _ in calls
    )


def _call(pool: WorkerPool, case: Case) -> tuple[list[Outcome], float]:
    started = time.perf_counter()
    outcomes = collect(pool.submit(case.reward, case.group))
    return outcomes, time.perf_counter() - started


def collect(futures: Iterable["Future[list[Outcome]]"]) -> list[Outcome]:
    """Wait for what a pool was asked, and return the outcomes of the group."""
    return [outcome for future in futures for outcome in future.result()]


def _odd_cases(plugin: Plugin, use: RewardUse, examples: Sequence[Example]) -> Iterator[Case]:
    """Put odd completions into the first example, or into nothing where there are no examples."""
    base = dict(examples[0].inputs) if examples else {}
    _check_columns(plugin, base)
    for name, text in ODD_COMPLETIONS.items():
        ids = tuple(range(min(len(text), _MAX_ODD_TOKENS)))
        inputs = {k: v for k, v in base.items() if k not in {"completion", "token_count"}}
        inputs |= {"completions": [text], "token_ids": [ids]}
        if read_signature(plugin).style != "completion":  # Beside one that is not odd.
            inputs |= {"completions": [text, "7"], "token_ids": [ids, (7,)]}
        yield _case(plugin, use, Example(inputs=inputs, expected=None), name=name)


def _check_columns(plugin: Plugin, given: Mapping[str, Any]) -> None:
    signature = read_signature(plugin)
    known = {*COMPLETION_INPUTS, *GROUP_INPUTS, *PROBLEM_INPUTS, *TRL_INPUTS, *given}
    needed = set(signature.inputs) - signature.optional_inputs - known
    if needed:
        names = ", ".join(map(repr, sorted(needed)))
        raise PluginError(
            f"reward {plugin.name!r} ({plugin.origin}) asks for {names}, which is no input and "
            "which its first example does not give; if it is a column of the data, add an example "
            "with a value of it, as in EXAMPLES = [({'completion': ..., "
            f"{min(needed)!r}: ...}}, 1.0)]"
        )


def _case(
    plugin: Plugin, use: RewardUse, example: Example, *, name: str, has_expected: bool = False
) -> Case:
    # An example says what its own options give.
    own = {n: v for n, v in use.options.items() if not (has_expected and n in example.inputs)}
    says_all = has_expected and not own
    reward, group = bind_example(plugin, example, options=None if says_all else own)
    return Case(
        name=name,
        reward=replace(
            reward,
            reference=absolute_reference(use.use),
            file=str(Path(plugin.origin).resolve()),
            timeout_s=use.timeout_s,
            memory_gib=use.memory_gib,
        ),
        group=group,
        has_expected=has_expected,
        expected=example.expected,
    )


def _plain(outcome: Outcome) -> Any:
    """Return what is compared: of a failure its kind, as messages may hold addresses."""
    return outcome.kind if isinstance(outcome, Failure) else outcome
