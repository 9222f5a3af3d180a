"""Accuracy that may be lost, and versions of a model to choose among, as options of a command."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from splitnn.cli.goals import Goals, decide
from splitnn.cli.policies import in_time, pins_of
from splitnn.cli.sources import open_model, open_profile
from splitnn.cost.accuracy import parse_share, policy_drop
from splitnn.cost.estimate import Codecs
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile
from splitnn.errors import InfeasiblePlan
from splitnn.planner.accuracy import Option, drop_of_plan, drops_of, within_accuracy
from splitnn.planner.exit_accuracy import policy_drops
from splitnn.planner.plan import LOSSLESS, Mode, Plan

if TYPE_CHECKING:
    from splitnn.graph.exits import Exits
    from splitnn.graph.model import Model
    from splitnn.planner.choice import Choice
    from splitnn.planner.exits import Weighed


@dataclass(frozen=True)
class Version:
    """A model, or one that was made of it, with its profiles."""

    name: str
    model: Model
    profiles: dict[str, Profile]

    @property
    def lost(self) -> float:
        """What the version itself loses at worst against what it was made of; 0 for what was made of nothing.

        Raises:
            InfeasiblePlan: it was never measured.
        """
        recipe = self.model.recipe
        if recipe is None:
            return 0.0
        if recipe.drop is None:
            raise InfeasiblePlan(f"{self.name}: nobody measured what this version loses")
        return max(0.0, recipe.drop.high)


@dataclass(frozen=True)
class Decided:
    """The best plan of one version."""

    version: Version
    plan: Plan
    choice: Choice | None
    codecs: Codecs  # that others may use beside it
    drops: Mapping[Option, float]
    limit: float | None  # None where codecs were asked for by name
    lost: float  # at worst, by version, exits and codecs
    weighed: Sequence[Weighed] = ()  # of a version with exits the ways to ask them, that of the plan first

    @property
    def worth(self) -> float:
        """What is to be small."""
        return self.choice.value if self.choice else self.plan.predicted.latency_s

    def is_calibrated(self, codecs: Sequence[str]) -> bool:
        """Whether somebody measured what the lossy ones of these codecs cost all exits together; true without any."""
        lossy = set(codecs) - LOSSLESS
        return not lossy or bool(drops_of_version(self.version, sorted(lossy), policy=self.version.model.exits))

    def allows(self, plan: Plan) -> bool:
        """Whether another plan of the version loses no more than may be lost."""
        return self.limit is None or self.version.lost + drop_of_plan(plan, self.drops) <= self.limit


def add_versions(parser: Any) -> None:
    """Add the options that the other functions read."""
    group = parser.add_argument_group("what accuracy may be lost")
    group.add_argument(
        "--max-accuracy-drop", metavar="SHARE",
        help="such as 0.5%%: lossy codecs where `splitnn calibrate` found that they lose no more, by the upper end of "
        "the 95 %% interval; several tensors and a version count together (default: lossless, or what --codecs names)",
    )  # fmt: skip
    group.add_argument(
        "--version", metavar="FOLDER=FILES", action="append", default=[],
        help="a version of MODEL that `splitnn bottleneck` or `compress` made, with its profiles in the order of the "
        "hosts, comma-separated; repeat: the best one is taken",
    )  # fmt: skip


def limit_of(args: argparse.Namespace) -> float | None:
    """The share of answers that may be lost; None where it is not the measure.

    Raises:
        ValueError: the text is no share.
    """
    if args.max_accuracy_drop is None:
        return 0.0 if args.version else None
    return parse_share(args.max_accuracy_drop)


def versions_of(args: argparse.Namespace, model: Model, hosts: Sequence[str]) -> list[Version]:
    """What ``--version`` names.

    Raises:
        OSError, ValueError, SplitnnError: no such model or profile, too few profiles, or a version of another model.
    """
    found = []
    for text in args.version:
        name, _, files = text.partition("=")
        paths = files.split(",")
        if not name or not files or len(paths) != len(hosts):
            raise ValueError(
                f"--version {text}: expected FOLDER=FILE,... with a profile for each of {', '.join(hosts)}"
            )
        version = open_model(name)
        base = None if version.recipe is None else version.recipe.base
        if base != model.digest:
            raise ValueError(
                f"--version {name} was made of {'nothing that it knows' if base is None else base[:12]}, "
                f"not of {args.model} ({model.digest[:12]})"
            )
        profiles = {host: open_profile(path) for host, path in zip(hosts, paths, strict=True)}
        for profile in profiles.values():
            profile.check_fits(version.graph, version.digest)
        found.append(Version(name, version, profiles))
    return found


def decide_version(
    version: Version, topology: Topology, *, goals: Goals, codecs: tuple[str, ...], mode: Mode, limit: float | None
) -> Decided:
    """The best plan of one version that loses at most ``limit``, where there is one.

    Raises:
        InfeasiblePlan: the version alone loses more, or the goals cannot be met.
        ValueError: lossy codecs may be used, but nothing was calibrated.
    """
    if limit is None:
        plan, choice = _solve(version, topology, goals=goals, codecs=codecs, mode=mode)
        return Decided(version, plan, choice, codecs, {}, None, 0.0)
    left = limit - version.lost
    if left < 0:
        raise InfeasiblePlan(f"{version.name} loses up to {version.lost:.2%}, more than {limit:.2%}")
    if version.model.exits is not None:
        pins = pins_of(goals, version.model.graph, topology)
        if pins is not None:
            return _decide_exits(
                version, version.model.exits, topology, goals=goals, codecs=codecs, pins=pins, limit=limit
            )
    drops = drops_of_version(version, codecs) if left > 0 else {}
    plan, choice = within_accuracy(
        lambda allowed: _solve(version, topology, goals=goals, codecs=allowed, mode="exact"),
        tensors=version.model.graph.tensors,
        codecs=codecs,
        drops=drops,
        limit=left,
        plan_of=lambda found: found[0],
        worth=lambda found: found[1].value if found[1] else found[0].predicted.latency_s,
    )
    lossless = tuple(codec for codec in codecs if codec in LOSSLESS) or ("raw",)
    allowed = {
        tensor: lossless + tuple(codec for (name, codec), drop in drops.items() if name == tensor and drop <= left)
        for tensor in version.model.graph.tensors
    }
    return Decided(version, plan, choice, allowed, drops, limit, version.lost + drop_of_plan(plan, drops))


def _decide_exits(
    version: Version,
    exits: Exits,
    topology: Topology,
    *,
    goals: Goals,
    codecs: tuple[str, ...],
    pins: Mapping[str, str],
    limit: float,
) -> Decided:
    """The quickest way to ask the exits of a version: these lose answers beside what the version and codecs lose."""
    left = limit - version.lost
    lossy = codecs if left > 0 else ()

    def drops(policy: Exits) -> Mapping[Option, float]:
        return drops_of_version(version, lossy, policy=policy)

    weighed = in_time(
        exits,
        version.model.graph,
        version.profiles,
        topology,
        codecs=codecs,
        mode="exact",
        pins=pins,
        deadline_s=goals.constraints.deadline_s,
        budget=(left, drops),
    )
    best = weighed[0]
    found = drops(best.exits)
    spent = max(0.0, policy_drop(exits, [each.name for each in best.exits.exits]).high) + drop_of_plan(best.plan, found)
    return Decided(version, best.plan, None, codecs, found, limit, version.lost + spent, weighed)


def best_version(
    versions: Sequence[Version],
    topology: Topology,
    *,
    goals: Goals,
    codecs: tuple[str, ...],
    mode: Mode,
    limit: float | None,
) -> tuple[Decided, list[str]]:
    """The best plan of all versions, and what there is to say about them and about what is lost, as lines.

    Raises:
        InfeasiblePlan: no version meets the limit and the goals; says how near each comes.
        ValueError: lossy codecs may be used, but nothing was calibrated.
    """
    decided: list[Decided] = []
    failed: list[tuple[Version, InfeasiblePlan]] = []
    for version in versions:
        try:
            decided.append(decide_version(version, topology, goals=goals, codecs=codecs, mode=mode, limit=limit))
        except InfeasiblePlan as error:
            failed.append((version, error))
    if not decided:
        if len(failed) == 1:
            raise failed[0][1]
        raise InfeasiblePlan("; ".join(f"{error}" for _, error in failed))
    best = min(decided, key=lambda each: each.worth)
    lines = []
    if best.limit is not None:
        lines.append(
            f"answers lost: at most {best.lost:.2%} (upper ends of 95 % intervals, added up), allowed {best.limit:.2%}"
        )
    if len(versions) > 1:
        lines.append("versions")
        lines += [
            f"  {1e3 * each.plan.predicted.latency_s:8.2f} ms  {each.plan.predicted.sent_bytes:8d} bytes  at most "
            f"{each.lost:.2%} lost  {each.version.name}"
            for each in sorted(decided, key=lambda each: each.worth)
        ]
        lines += [f"  no plan: {error}" for _, error in failed]
    return best, lines


def _solve(
    version: Version, topology: Topology, *, goals: Goals, codecs: Codecs, mode: Mode
) -> tuple[Plan, Choice | None]:
    from splitnn.planner.min_cut import plan

    graph = version.model.graph
    if goals.are_stated:
        choice = decide(goals, graph, version.profiles, topology, codecs=codecs, mode=mode)
        return choice.plan, choice
    return plan(graph, version.profiles, topology, codecs=codecs, mode=mode), None


def drops_of_version(version: Version, codecs: Sequence[str], *, policy: Exits | None = None) -> dict[Option, float]:
    """What lossy codecs cost, from the first profile that knows; ``policy`` says which of the model's exits are asked.

    Raises:
        ValueError: lossy codecs may be used, but nothing was calibrated.
    """
    lossy = sorted(set(codecs) - LOSSLESS)
    for profile in version.profiles.values():
        if profile.accuracy is not None:
            found = profile.accuracy
            return drops_of(found, lossy) if policy is None else policy_drops(found, lossy, policy)
    if lossy and version.model.recipe is None:
        raise ValueError(
            f"nobody measured what lossy codecs cost {version.name}: run `splitnn calibrate {version.name} --data ... "
            "--profile FILE` for a profile of it first"
        )
    return {}
