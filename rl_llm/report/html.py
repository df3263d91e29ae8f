"""From a run's records to one HTML page that needs nothing but itself.

Every text of the run is escaped by the template; only SVG that this package drew goes in as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from markupsafe import Markup

from rl_llm.report import alarms, plots, plots_curriculum, summary
from rl_llm.report.browse import browsable
from rl_llm.report.moved import Moved
from rl_llm.report.pages import render_page, sample_macro, within
from rl_llm.report.read import RunRecord

_PAIRS_SHOWN, _PAIRS_FOLDED = 8, 40
_GROUPS_SHOWN = 4
_MOST_BYTES_SHOWN, _MOST_BYTES_LISTED = 400_000, 1_200_000


@dataclass(frozen=True, kw_only=True)
class Card:
    """A plot with its title and a sentence that says how to read it.

    One that is not `expected` of every run is left out without a word where there is none.
    """

    title: str
    caption: str
    plot: plots.Plot
    wide: bool = False
    expected: bool = True


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One number of the headline."""

    name: str
    value: str
    detail: str = ""


_SECTIONS: dict[str, Sequence[Card]] = {
    "Held-out problems": (
        Card(
            title="Pass rate",
            caption="Mean over held-out problems, with a band of one standard error.",
            plot=plots.held_out_pass_rate,
        ),
        Card(
            title="Before and after, per level",
            caption="First evaluation in grey, last in colour.",
            plot=plots.pass_rate_before_after,
        ),
        Card(
            title="Pass rate per level",
            caption="Each line is a level of difficulty, and ends in its last pass rate.",
            plot=plots.pass_rate_per_level,
            wide=True,
        ),
    ),
    "Curriculum": (
        Card(
            title="Beliefs about the pool",
            caption="Where the pool's prompts stand by the pass rate believed of them: at the top "
            "the model has learnt them, in the middle they teach.",
            plot=plots_curriculum.belief_heatmap,
            wide=True,
        ),
        Card(
            title="Groups per bucket",
            caption="Groups generated in each step, dropped ones included, by source and level.",
            plot=plots_curriculum.groups_per_bucket,
            wide=True,
        ),
        Card(
            title="Informative groups",
            caption="Share of generated groups with some but not all completions correct.",
            plot=plots_curriculum.informative_share,
        ),
        Card(
            title="Learnt from and dropped",
            caption="Share of each step's completions that passed the gates; completions so far, "
            "dropped ones among them.",
            plot=plots_curriculum.learnt_and_dropped,
        ),
        Card(
            title="Reliability",
            caption="Pass rate believed of drawn problems before the draw, and observed: on the "
            "dashed line both agree. Larger dots stand for more completions.",
            plot=plots_curriculum.reliability,
        ),
        Card(
            title="Calibration",
            caption="Mean distance from that line, and squared errors (Brier scores). Chance keeps "
            "them above 0; always saying 50 % gives 0.25.",
            plot=plots_curriculum.calibration,
        ),
        Card(
            title="Coverage",
            caption="Share of the pool drawn at least once, and groups admitted to each update.",
            plot=plots_curriculum.coverage,
        ),
        Card(
            title="Spread of visits",
            caption="Gini coefficient of visits over the pool, 0 where all prompts had as many; "
            "mean age of the last visit.",
            plot=plots_curriculum.spread_of_visits,
        ),
        Card(
            title="Standing",
            caption="Prompts retired as learnt and deferred as out of reach, groups drawn to "
            "review retired prompts, and buckets that wait for their prerequisites.",
            plot=plots_curriculum.standing,
            wide=True,
        ),
    ),
    "Learning": (
        Card(
            title="Rewards",
            caption="Means over completions: each reward unweighted, and the weighted total.",
            plot=plots.rewards,
        ),
        Card(
            title="KL and beta",
            caption="k3 estimates of the divergence; beta is the coefficient in force.",
            plot=plots.kl_and_beta,
        ),
        Card(
            title="Completion length",
            caption="Mean tokens, and the share that was cut at the limit.",
            plot=plots.lengths,
        ),
        Card(
            title="Entropy and gradient",
            caption="A fall to zero entropy ends exploration; the norm is taken before clipping.",
            plot=plots.entropy_and_gradient,
        ),
        Card(
            title="Clipping and learning rate",
            caption="Share of trained tokens where the clip holds the ratio.",
            plot=plots.clipping_and_rate,
        ),
        Card(
            title="Critic",
            caption="Share of the variance of returns that it foresaw: on the dashed line it is as "
            "good as one number for all.",
            plot=plots.critic,
            expected=False,
        ),
        Card(
            title="Engine mismatch",
            caption="Distance between logprobs of the trainer and of the rollout engine.",
            plot=plots.engine_mismatch,
        ),
    ),
    "Cost": (
        Card(
            title="Time per stage",
            caption="Seconds of each step, with each stage's share of the whole run. Of what is "
            "generated ahead, the time that steps waited for it.",
            plot=plots.time_per_stage,
            wide=True,
        ),
        Card(
            title="Pass rate for completions spent",
            caption="Held-out pass rate against completions generated, dropped groups included.",
            plot=plots.pass_rate_per_completion,
        ),
        Card(
            title="Throughput",
            caption="Tokens generated a second, dropped groups included.",
            plot=plots.throughput,
        ),
    ),
}


def render(run: RunRecord, moved: Moved | None = None) -> str:
    """Return the page; what the run lacks is left out and named in the footer.

    What grows with a run is drawn or listed in part, so that no page grows past 5 MB.
    """
    drawn = {card: card.plot(run) for cards in _SECTIONS.values() for card in cards}
    sections = {
        title: [(card, Markup(drawn[card])) for card in cards if drawn[card]]
        for title, cards in _SECTIONS.items()
    }
    paired = summary.pairs(run)
    groups = summary.last_training_groups(run)
    more = paired[_PAIRS_SHOWN : _PAIRS_SHOWN + _PAIRS_FOLDED]
    return render_page(
        "template.html",
        title=run.name,
        run=run,
        held_out=summary.held_out(run),
        alarms=alarms.stands(run),
        tiles=_tiles(run),
        facts=_facts(run),
        sections={title: cards for title, cards in sections.items() if cards},
        missing=[card.title for card, svg in drawn.items() if card.expected and not svg],
        pairs=_cards("pair_card", paired[:_PAIRS_SHOWN]),
        more_pairs=_cards("pair_card", more),
        num_pairs=len(paired),
        pair_steps=[(pair.before.step, pair.after.step) for pair in paired[:1]],
        outcomes=summary.outcomes(paired),
        lone=_cards("lone_card", summary.lone_evaluation(run)[:_PAIRS_SHOWN]),
        groups=_cards("group_card", groups[:_GROUPS_SHOWN]),
        groups_step=groups[0].problem.step if groups else 0,
        moved=moved or Moved(),
        browsable=browsable(run, most_bytes=_MOST_BYTES_LISTED),
    )


def _cards(macro: str, items: Sequence[Any]) -> list[Markup]:
    return within(map(sample_macro(macro), items), most_bytes=_MOST_BYTES_SHOWN)


def duration(seconds: float) -> str:
    """Return seconds in the two largest units that matter, as in `3 min 12 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def compact(count: float) -> str:
    """Return a count in at most four digits, as in `12.3 M`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= 10 * size or (unit != "k" and count >= size):
            return f"{count / size:.3g} {unit}"
    return f"{count:,.0f}"


def _tiles(run: RunRecord) -> list[Tile]:
    planned = run.setting("run.steps")
    of_planned = f"of {planned}" if isinstance(planned, int) else ""
    tiles = [Tile(name="training steps", value=f"{run.last_step:,}", detail=of_planned)]
    for name, key in (("completions", "rollout/completions"), ("tokens", "rollout/tokens")):
        spent = summary.last_value(run.series(key))
        if spent is not None:
            tiles.append(Tile(name=name, value=compact(spent), detail="generated"))
    seconds = summary.wall_seconds(run)
    if seconds is not None:
        tiles.append(Tile(name="wall time", value=duration(seconds), detail="with evaluation"))
    speed = run.series("rollout/tokens_per_s")
    if speed:
        tiles.append(
            Tile(
                name="generation", value=compact(median(speed.values)), detail="tokens / s, median"
            )
        )
    informative = run.series("train/informative_share")
    if informative:
        mean = informative.total / len(informative.values)
        tiles.append(
            Tile(name="informative groups", value=f"{100 * mean:.0f} %", detail="mean over steps")
        )
    return tiles


def _facts(run: RunRecord) -> list[tuple[str, str]]:
    """Return what defines the run, as far as its recipe says it."""
    paths = {
        "model": "model.path",
        "algorithm": "algorithm.name",
        "sampler": "curriculum.sampler.name",
        "KL controller": "kl.controller.name",
        "engine": "rollout.engine",
        "problems a step": "rollout.problems_per_step",
        "group size": "rollout.group_size",
        "LoRA rank": "lora.rank",
        "learning rate": "optim.lr",
        "seed": "run.seed",
    }
    found = {name: run.setting(path) for name, path in paths.items()}
    return [(name, str(value)) for name, value in found.items() if value is not None]
