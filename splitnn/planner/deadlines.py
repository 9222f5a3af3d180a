"""Edgent's problem for every bandwidth and deadline at once: the most accurate exits, cut and codecs that are in time.

A policy says which of the exits are asked (Li et al. 2018 choose one for all samples; here any of them, sample by
sample). A request is in time when even a sample that leaves at the policy's last exit is. For each policy the lowest
such latency is an envelope of lines over 1/bandwidth, as in ``splitnn.planner.envelope``; the answer is the most
accurate policy whose envelope lies below the deadline. Round trips are part of the lines here, because samples pay
them in different shares: another round trip needs another map.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import combinations, pairwise

from splitnn.cost.cost import nanoseconds
from splitnn.cost.estimate import Codecs
from splitnn.cost.expected import Shares
from splitnn.cost.network import Topology, format_rate
from splitnn.cost.profile import Profile
from splitnn.errors import InfeasiblePlan
from splitnn.graph.exits import Exits
from splitnn.graph.graph import Graph
from splitnn.planner.envelope import Varying
from splitnn.planner.parametric import lowest_lines
from splitnn.planner.pins import exit_pins
from splitnn.planner.plan import Mode
from splitnn.planner.policy_plan import Course, PolicyPlan
from splitnn.planner.rates import Line, RateProblem


class DeadlineMap:
    """The most accurate choice for every bandwidth and deadline, by look-up; ``compute_deadline_map`` makes one.

    Outside the bandwidths that it was made for it keeps the outermost choices.
    """

    def __init__(
        self, quickest: Mapping[Exits, Sequence[PolicyPlan]], leanest: Mapping[Exits, Sequence[PolicyPlan]]
    ) -> None:
        """Of each policy its choices by ascending bandwidth: with the lowest worst case, and with the lowest mean."""
        self._policies = sorted(quickest, key=lambda exits: -exits.accuracy)
        self._quickest = [tuple(quickest[exits]) for exits in self._policies]
        self._leanest = [tuple(leanest[exits]) for exits in self._policies]
        self._all = [choice for each in (*self._quickest, *self._leanest) for choice in each]

    @property
    def policies(self) -> tuple[Exits, ...]:
        """The policies that were weighed, the most accurate first."""
        return tuple(self._policies)

    @property
    def low_bps(self) -> float:
        """The lowest bandwidth that the map was made for."""
        return self._quickest[0][0].low_bps

    @property
    def high_bps(self) -> float:
        """The highest one."""
        return self._quickest[0][-1].high_bps

    @property
    def plans(self) -> tuple[PolicyPlan, ...]:
        """Every choice there is, at any bandwidth and deadline."""
        return tuple(self._all)

    def of(self, exits: Exits) -> tuple[tuple[PolicyPlan, ...], tuple[PolicyPlan, ...]]:
        """Of one policy the plans by ascending bandwidth: those with the lowest mean, and the lowest worst case.

        Raises:
            ValueError: the policy is not one of this map's.
        """
        number = self._policies.index(exits)
        return self._leanest[number], self._quickest[number]

    def at(self, bandwidth_bps: float, deadline_s: float) -> PolicyPlan:
        """The most accurate choice in which no sample is late.

        Of equally accurate ones that with the lowest mean latency is taken. A policy's own best mean is kept where its
        worst case is in time, else the choice is the one with the lowest worst case.

        Raises:
            InfeasiblePlan: nothing is in time; says how long the quickest choice takes.
            ValueError: a bandwidth that is not above 0, or a deadline that is no time.
        """
        if not bandwidth_bps > 0 or not deadline_s > 0:
            raise ValueError(f"bandwidth and deadline are above 0, not {bandwidth_bps} bit/s and {deadline_s} s")
        found: list[PolicyPlan] = []
        for exits, quick, lean in zip(self._policies, self._quickest, self._leanest, strict=True):
            if found and exits.accuracy < found[0].exits.accuracy:
                break
            for choices in (lean, quick):
                choice = _at(choices, bandwidth_bps)
                if choice.is_in_time(bandwidth_bps, deadline_s):
                    found.append(choice)
                    break
        if not found:
            least_s = min(_at(choices, bandwidth_bps).worst.latency_s(bandwidth_bps) for choices in self._quickest)
            raise InfeasiblePlan(
                f"nothing answers every sample within {deadline_s * 1e3:.4g} ms at {format_rate(bandwidth_bps)}; "
                f"the quickest choice takes {least_s * 1e3:.4g} ms"
            )
        return min(found, key=lambda choice: choice.mean.latency_s(bandwidth_bps))

    def choices(self, deadline_s: float) -> list[PolicyPlan]:
        """Of one deadline the choice at every bandwidth at which something is in time, by ascending bandwidth."""
        edges = {edge for c in self._all for edge in (c.low_bps, c.high_bps, c.worst.bandwidth_for(deadline_s))}
        found: list[PolicyPlan] = []
        for start, end in pairwise(sorted(edge for edge in edges if self.low_bps <= edge <= self.high_bps)):
            try:
                choice = self.at(math.sqrt(start) * math.sqrt(end), deadline_s)
            except InfeasiblePlan:
                continue
            before = found[-1] if found else None
            if before and before.high_bps == start and (before.exits, before.plan.id) == (choice.exits, choice.plan.id):
                found[-1] = replace(before, high_bps=end)
            else:
                found.append(replace(choice, low_bps=start, high_bps=end))
        return found

    def needed_bps(self, exits: Exits, deadline_s: float) -> float:
        """The lowest bandwidth at which a policy is in time: 0 where it needs none, infinite where none suffices.

        Raises:
            ValueError: the policy is not one of this map's.
        """
        choices = self._quickest[self._policies.index(exits)]
        for choice in choices:  # latency falls with the bandwidth, so the first one that is in time is the one
            needed = choice.worst.bandwidth_for(deadline_s)
            if needed <= choice.high_bps:
                return needed if needed > choice.low_bps or choice is choices[0] else choice.low_bps
        return choices[-1].worst.bandwidth_for(deadline_s)


def every_policy(exits: Exits) -> list[Exits]:
    """Every choice among the exits: each alone (Edgent), and each set of them asked in order."""
    names = [each.name for each in exits.exits]
    return [exits.only(*some) for count in range(1, len(names) + 1) for some in combinations(names, count)]


def compute_deadline_map(
    graph: Graph,
    profiles: Mapping[str, Profile],
    topology: Topology,
    *,
    policies: Iterable[Exits],
    codecs: Codecs = ("raw",),
    mode: Mode = "exact",
    pins: Mapping[str, str] | None = None,
    low_bps: float = 1e4,
    high_bps: float = 1e10,
    varying: Varying = "up",
) -> DeadlineMap:
    """The map over all bandwidths of the first hop and all deadlines, at the topology's round trips.

    Raises:
        ProfileMismatch: a host has no profile, or one of another model.
        InfeasiblePlan: the pins contradict each other or leave no order of the exits.
        ValueError: no policy, a topology without a link, a range that is none, or what ``plan_exits`` refuses.
    """
    if not topology.up:
        raise ValueError("a deadline map needs a link: the topology has one host")
    if not 0 < low_bps < high_bps < math.inf:
        raise ValueError(f"a map's bandwidths go from above 0 to something finite, not {low_bps} to {high_bps}")
    up, down = topology.up[0], topology.down[0]
    ratio = Fraction(up.bandwidth_bps) / Fraction(down.bandwidth_bps) if varying == "both" else None
    hosts = [host.name for host in topology.hosts]
    quickest: dict[Exits, list[PolicyPlan]] = {}
    leanest: dict[Exits, list[PolicyPlan]] = {}
    for exits in policies:
        cases = []
        for decided_on, pinned in exit_pins(graph, exits, hosts, pins or {}):
            mean, worst = (
                RateProblem(
                    graph, profiles, topology, codecs=codecs, mode=mode, pins=pinned, down_per_up=ratio, shares=shares
                )
                for shares in (
                    Shares.of(graph, exits, decided_on, hosts=len(hosts)),
                    Shares.of(graph, exits.at_worst(), decided_on, hosts=len(hosts)),
                )
            )
            cases.append(_Case(mean, worst, up.latency_s + down.latency_s))
        if not cases:
            raise InfeasiblePlan("the pins leave no host on which each exit could be decided after the one before it")
        quickest[exits] = _lowest(exits, cases, _Case.quickest, low_bps=low_bps, high_bps=high_bps)
        leanest[exits] = _lowest(exits, cases, _Case.leanest, low_bps=low_bps, high_bps=high_bps)
    if not quickest:
        raise ValueError("a deadline map weighs policies; there is none")
    return DeadlineMap(quickest, leanest)


@dataclass(frozen=True, slots=True)
class _Case:
    """All placements that decide each exit on one given host."""

    problem: RateProblem  # means over samples
    worst: RateProblem  # of a sample that leaves last
    round_trip_s: float

    def quickest(self, x: Fraction) -> _Found:
        """The placement with the lowest worst case at x seconds a bit."""
        line = self.worst.solve(x)
        return _Found(self._course(self.worst, line), self, line)

    def leanest(self, x: Fraction) -> _Found:
        """The placement with the lowest mean at x seconds a bit."""
        line = self.problem.solve(x)
        return _Found(self._course(self.problem, line), self, line)

    def choice(self, exits: Exits, line: Line, *, low_bps: float, high_bps: float) -> PolicyPlan:
        """That placement between two bandwidths."""
        middle = math.sqrt(low_bps) * math.sqrt(high_bps)
        mean = self.problem.again(line)
        return PolicyPlan(
            low_bps=low_bps,
            high_bps=high_bps,
            exits=exits,
            plan=self.problem.plan(mean, bandwidth_bps=middle, round_trip_s=self.round_trip_s),
            worst=self._course(self.worst, self.worst.again(line)),
            mean=self._course(self.problem, mean),
        )

    def _course(self, problem: RateProblem, line: Line) -> Course:
        round_trip_ns = problem.expected_ns(nanoseconds(self.round_trip_s)) if line.uses_hop else 0
        return Course(line.fixed_ns + round_trip_ns, line.slope)


@dataclass(frozen=True, slots=True)
class _Found:
    """A placement that is the lowest somewhere."""

    course: Course
    case: _Case
    line: Line

    def at(self, x: Fraction) -> Fraction:
        return self.course.at(x)

    def is_same(self, other: _Found) -> bool:
        return self.course.is_same(other.course)

    def meets(self, other: _Found) -> Fraction:
        return self.course.meets(other.course)


def _lowest(
    exits: Exits,
    cases: Sequence[_Case],
    solve: Callable[[_Case, Fraction], _Found],
    *,
    low_bps: float,
    high_bps: float,
) -> list[PolicyPlan]:
    """The placements of all cases together that are ever the lowest, by ascending bandwidth."""

    def lowest(x: Fraction) -> _Found:
        return min((solve(case, x) for case in cases), key=lambda found: found.at(x))

    spans = lowest_lines(lowest, 1 / Fraction(high_bps), 1 / Fraction(low_bps))
    return [
        span.line.case.choice(exits, span.line.line, low_bps=float(1 / span.high), high_bps=float(1 / span.low))
        for span in reversed(spans)
    ]


def _at(choices: Sequence[PolicyPlan], bandwidth_bps: float) -> PolicyPlan:
    return choices[bisect_left(choices, bandwidth_bps, hi=len(choices) - 1, key=lambda choice: choice.high_bps)]
