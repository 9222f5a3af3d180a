"""The best plan of a version, and of several: within what accuracy may be lost, or the most accurate in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from splitnn.cli.asking import weigh_policies
from splitnn.cli.goals import Goals, decide
from splitnn.cli.versions import Version, names_of
from splitnn.cost.accuracy import policy_drop
from splitnn.cost.estimate import Codecs
from splitnn.cost.network import Topology
from splitnn.errors import InfeasiblePlan
from splitnn.planner.accuracy import Option, drop_of_plan, drops_of, within_accuracy
from splitnn.planner.exit_accuracy import policy_drops
from splitnn.planner.plan import LOSSLESS, Mode, Plan

if TYPE_CHECKING:
    from splitnn.graph.exits import Exits
    from splitnn.planner.choice import Choice
    from splitnn.planner.exits import Weighed


@dataclass(frozen=True)
class Decided:
    """The best plan of one version."""

    version: Version
    plan: Plan
    choice: Choice | None
    codecs: Codecs  # that others may use beside it
    drops: Mapping[Option, float]
    limit: float | None  # None where accuracy is no limit, and codecs are those asked for by name
    spent: float  # what exits and, within a limit, codecs lose at worst
    likely_spent: float = 0.0  # what exits lose as estimated
    weighed: Sequence[Weighed] = ()  # of a version with exits the ways to ask them, that of the plan first

    @property
    def lost(self) -> float:
        """What all of it loses at worst.

        Raises:
            InfeasiblePlan: as ``Version.lost``.
        """
        return self.version.lost + self.spent

    @property
    def likely_lost(self) -> float:
        """What version and exits lose as estimated.

        Raises:
            InfeasiblePlan: as ``Version.lost``.
        """
        return self.version.likely_lost + self.likely_spent

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


def decide_version(
    version: Version, topology: Topology, *, goals: Goals, codecs: tuple[str, ...], mode: Mode, limit: float | None
) -> Decided:
    """The best plan of one version that loses at most ``limit``, where there is one.

    Without a limit it is what ``splitnn plan`` says of it alone: its exits as they are, or, with a deadline, the most
    accurate in time.

    Raises:
        InfeasiblePlan: the version alone loses more, or the goals cannot be met.
        ValueError: lossy codecs may be used, but nothing was calibrated.
    """
    if version.model.exits is not None:
        return _decide_exits(version, version.model.exits, topology, goals=goals, codecs=codecs, mode=mode, limit=limit)
    if limit is None:
        plan, choice = _solve(version, topology, goals=goals, codecs=codecs, mode=mode)
        return Decided(version, plan, choice, codecs, {}, None, 0.0)
    left = _left(version, limit)
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
    return Decided(version, plan, choice, allowed, drops, limit, drop_of_plan(plan, drops))


def _left(version: Version, limit: float) -> float:
    """What exits and codecs may lose beside the version itself. Raises InfeasiblePlan: nothing is left."""
    if version.lost > limit:
        raise InfeasiblePlan(f"{version.name} loses up to {version.lost:.2%}, more than {limit:.2%}")
    return limit - version.lost


def _decide_exits(
    version: Version,
    exits: Exits,
    topology: Topology,
    *,
    goals: Goals,
    codecs: tuple[str, ...],
    mode: Mode,
    limit: float | None,
) -> Decided:
    """How to ask the exits of a version: these lose answers beside what the version and codecs lose.

    Within a limit the best way, else as ``weigh_policies`` says.
    """
    left = None if limit is None else _left(version, limit)
    lossy = codecs if left else ()

    def drops(policy: Exits) -> Mapping[Option, float]:
        return drops_of_version(version, lossy, policy=policy)

    weighed = weigh_policies(
        exits,
        version.model.graph,
        version.profiles,
        topology,
        goals=goals,
        codecs=codecs,
        mode=mode if left is None else "exact",
        loss=None if left is None else (left, drops),
    )
    best = weighed[0]
    found = {} if left is None else drops(best.exits)
    early = policy_drop(exits, names_of(best.exits))
    spent = max(0.0, early.high) + (0.0 if left is None else drop_of_plan(best.plan, found))
    return Decided(version, best.plan, best.choice, codecs, found, limit, spent, early.estimate, weighed)


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

    Without a limit it is the one that likely loses least, of equals the quickest; see ``limit_among``.

    Raises:
        InfeasiblePlan: no version meets the limit and the goals; says how near each comes.
        ValueError: lossy codecs may be used, but nothing was calibrated.
    """
    ranks: list[tuple[float, float, Decided]] = []
    failed: list[tuple[Version, InfeasiblePlan]] = []
    for version in versions:
        try:
            found = decide_version(version, topology, goals=goals, codecs=codecs, mode=mode, limit=limit)
            ranks.append((found.likely_lost if limit is None and len(versions) > 1 else 0.0, found.worth, found))
        except InfeasiblePlan as error:
            failed.append((version, error))
    if not ranks:
        if len(failed) == 1:
            raise failed[0][1]
        raise InfeasiblePlan("; ".join(_named(version, error) for version, error in failed))
    decided = [found for *_, found in sorted(ranks, key=lambda rank: rank[:2])]
    best = decided[0]
    lines = []
    if best.limit is not None:
        lines.append(
            f"answers lost: at most {best.lost:.2%} (upper ends of 95 % intervals, added up), allowed {best.limit:.2%}"
        )
    if len(versions) > 1:
        lines.append("versions" if limit is not None else "versions, each as it is the most accurate in time")
        for each in decided:
            likely = "" if limit is not None else f"{each.likely_lost:.2%} lost, "
            lines.append(
                f"  {1e3 * each.plan.predicted.latency_s:8.2f} ms  {each.plan.predicted.sent_bytes:8d} bytes  {likely}"
                f"at most {each.lost:.2%}{' lost' if limit is not None else ''}  {each.version.name}{_exits_of(each)}"
            )
        lines += [f"  no plan: {_named(version, error)}" for version, error in failed]
    return best, lines


def _named(version: Version, error: InfeasiblePlan) -> str:
    return f"{error}" if f"{error}".startswith(version.name) else f"{version.name}: {error}"


def _exits_of(decided: Decided) -> str:
    return f", exits {' '.join(names_of(decided.weighed[0].exits))}" if decided.weighed else ""


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
        ValueError: lossy codecs may be used, but nothing was calibrated, or profiles by different outputs.
    """
    lossy = sorted(set(codecs) - LOSSLESS)
    if lossy:
        _check_answers(version)
    for profile in version.profiles.values():
        if profile.accuracy is not None:
            found = profile.accuracy
            return drops_of(found, lossy) if policy is None else policy_drops(found, lossy, policy)
    if lossy and version.base is None and version.lost == 0:  # then it is for codecs that something may be lost
        raise ValueError(
            f"nobody measured what lossy codecs cost {version.name}: run `splitnn calibrate {version.name} --data ... "
            "--profile FILE` for a profile of it first, or allow lossless codecs only (--codecs raw,zstd)"
        )
    return {}


def _check_answers(version: Version) -> None:
    """Raises ValueError where profiles were calibrated by different outputs; older files do not say by which."""
    found = {host: profile.accuracy for host, profile in version.profiles.items()}
    judged = {host: each.answer for host, each in found.items() if each is not None and each.answer is not None}
    if len(set(judged.values())) > 1:
        said = ", ".join(f"that of {host} by {answer!r}" for host, answer in judged.items())
        raise ValueError(
            f"the profiles of {version.name} were calibrated by different outputs, {said}: run `splitnn calibrate` "
            "again for both, with the same --answer"
        )
