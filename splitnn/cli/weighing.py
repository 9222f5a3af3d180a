"""A plan for two hosts beside the ones that were not chosen, and what would have to change for each of them to win.

Everything is weighed by what is wanted: seconds unless the goals say otherwise. A deadline beside another objective, or
a limit of energy, rules out other plans at each bandwidth; where one of them decides, no threshold is a crossing of
lines, and none is stated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import groupby

from splitnn.cli.blocks import blocks_of
from splitnn.cli.goals import decide
from splitnn.cli.two_hosts import TwoHosts
from splitnn.cli.wording import Parts, name_of
from splitnn.cost.estimate import codec_options
from splitnn.planner.binding import Binding, binding_constraints
from splitnn.planner.chain import alternatives
from splitnn.planner.choice import Choice
from splitnn.planner.conditions import Form
from splitnn.planner.doubt import chance_quicker, interval_ns, relative_deviations
from splitnn.planner.forms import FormProblem
from splitnn.planner.objective import METER_UNITS
from splitnn.planner.plan import Plan
from splitnn.planner.sensitivity import Axis, Sensitivity, Standing, axes_of

SURENESS = 0.9
_BIT_NS = 10**9


@dataclass(frozen=True, slots=True)
class Weighed:
    """One way to run the model: today, and how it fares when something changes."""

    name: str
    kind: str  # "chosen", "earlier", "later", "other cut" or "no cut"
    form: Form
    latency_s: float
    worth: float  # in the objective's unit; seconds when that is latency
    parts: Parts
    bytes_to_win: float | None  # as good as the chosen plan if it sent so few; below 0: never; None: it sends nothing
    standings: tuple[Standing, ...]  # along each axis
    chance: float | None  # that it is quicker than the chosen plan in truth; None where the profiles do not tell
    obstacles: tuple[str, ...] = ()  # what the constraints have against it

    @property
    def sent_bytes(self) -> int:
        """Bytes on their way up."""
        return self.form.up_bits[0] // 8


@dataclass(frozen=True, slots=True)
class CodecTrial:
    """The chosen placement with one tensor in another codec than the chosen one."""

    tensor: str
    codec: str
    size_bytes: int
    more_s: float  # than with the chosen codec
    is_allowed: bool


@dataclass(frozen=True, slots=True)
class Weighing:
    """The chosen plan, and the others, the quickest first."""

    plan: Plan
    chosen: Weighed
    others: tuple[Weighed, ...]
    interval_s: tuple[float, float] | None  # of the chosen plan's latency, with probability SURENESS
    trials: tuple[CodecTrial, ...]
    freed: Weighed | None  # a better plan, were every measured codec allowed
    bindings: tuple[Binding, ...]  # constraints that keep a better plan out
    gap: float  # by which share of what it takes the plan may be improved at most; 0: proven
    is_ruled: bool  # whether a deadline or a limit of energy decided, so that no thresholds are stated


def weigh(given: TwoHosts) -> Weighing:
    """Decide, and weigh the decision.

    Raises:
        ProfileMismatch: a profile belongs to another model.
        InfeasiblePlan: no plan obeys the constraints.
        ValueError: the objective is throughput.
    """
    problem = given.problem()
    choice, bindings = _decided(given)
    best = problem.solve(problem.now) if choice is None else problem.matching(choice.plan)
    is_ruled = choice is not None and _rules(given, problem, best)
    if not is_ruled:
        best = _agreed(problem, choice)
    gap = problem.gap if not is_ruled or choice is None else choice.gap
    scales = _Scales(given, problem, best, axes=() if is_ruled else axes_of(problem))
    tiers = {("chosen", best.tiers): None, **dict.fromkeys(_neighbours(problem, best.tiers, scales.blocks))}
    plan = problem.plan(best, mode=given.mode)
    known = {placement for _, placement in tiers}
    for other in alternatives(given.graph, given.profiles, given.topology, best=plan, codecs=given.codecs, count=3):
        if other.tiers not in known:
            tiers["no cut" if len(set(other.tiers)) == 1 else "other cut", other.tiers] = None
    chosen, *others = [scales.weigh(kind, placement) for kind, placement in tiers]
    others.sort(key=lambda weighed: (bool(weighed.obstacles), weighed.worth))
    interval = None
    if scales.deviations is not None:
        low, high = interval_ns(best, chosen.latency_s * 1e9, scales.deviations, within=SURENESS)
        interval = (low * 1e-9, high * 1e-9)
    freed = None if is_ruled else _freed(given, chosen)
    trials = tuple(_trials(given, best))
    return Weighing(plan, chosen, tuple(others), interval, trials, freed, bindings, gap, is_ruled)


def _decided(given: TwoHosts) -> tuple[Choice | None, tuple[Binding, ...]]:
    """The plan for the goals with all their budgets, and which of them bind; nothing to say without goals."""
    goals = given.goals
    if not goals.are_stated:
        return None, ()
    choice = decide(goals, given.graph, given.profiles, given.topology, codecs=given.codecs, mode=given.mode)
    bindings = binding_constraints(
        given.graph,
        given.profiles,
        given.topology,
        constraints=goals.constraints,
        objective=goals.objective,
        codecs=given.codecs,
        mode=given.mode,
        energy=goals.energy,
        tariff=goals.tariff,
    )
    return choice, bindings


def _agreed(problem: FormProblem, choice: Choice | None) -> Form:
    """The best form, which a choice that was proven cannot undercut, nor the other way round."""
    best = problem.solve(problem.now)
    if choice is None or not choice.is_optimal or problem.gap:
        return best
    if abs(problem.matching(choice.plan).worth(problem.now) - best.worth(problem.now)) > _rounding(problem):
        raise RuntimeError(f"defect of the planner: explained would be another plan than {choice.plan}")
    return best


def _rounding(problem: FormProblem) -> Fraction:
    """By how much a form and an estimate of the same plan differ at most, in billionths of the objective's unit."""
    terms = 2 * (len(problem.graph) + 10)
    weights = problem.aim.objective.weights
    steps = sum(Fraction(repr(float(weight))) * METER_UNITS[quantity] for quantity, weight in weights.items())
    return terms * (max(problem.aim.factors) + steps * 10**9)  # nanoseconds at their prices, and steps of the meters


def _rules(given: TwoHosts, problem: FormProblem, chosen: Form) -> bool:
    """Whether a budget that depends on the conditions keeps the plan out that would be the best without it."""
    limits = given.goals.constraints
    free = replace(limits, deadline_s=None, max_energy_j=None)
    if free == limits:
        return False
    return chosen.worth(problem.now) > problem.solve(problem.now).worth(problem.now) + _rounding(problem)


class _Scales:
    """What every placement is weighed on."""

    def __init__(self, given: TwoHosts, problem: FormProblem, best: Form, *, axes: Sequence[Axis]) -> None:
        self.blocks = blocks_of(given.graph)
        self.deviations = relative_deviations(given.profiles, problem.hosts)
        self._graph = given.graph
        self._problem = problem
        self._best = best
        self._is_latency = given.goals.objective.is_latency
        self._limits = given.goals.constraints
        self._sensitivities = [Sensitivity(problem, axis) for axis in axes]

    def weigh(self, kind: str, tiers: Sequence[int]) -> Weighed:
        now = self._problem.now
        form = self._best if kind == "chosen" else self._problem.priced(tiers, now)
        behind = form.worth(now) - self._best.worth(now)
        bits = form.up_bits[0]
        bit = self._problem.aim.prices(now).units[len(self._problem.hosts)] * _BIT_NS
        chance = None
        if self.deviations is not None and self._is_latency:
            chance = chance_quicker(form, self._best, self.deviations, behind_ns=float(behind))
        obstacles = () if kind == "chosen" else tuple(self._problem.obstacles(form))
        latency_s = float(form.at(now)) * 1e-9
        if self._limits.deadline_s is not None and latency_s > self._limits.deadline_s:
            obstacles = (*obstacles, "misses the deadline")
        return Weighed(
            name=name_of(form, self._graph, self.blocks),
            kind=kind,
            form=form,
            latency_s=latency_s,
            worth=float(form.worth(now)) * 1e-9,
            parts=Parts.of(form, now),
            bytes_to_win=float((bits * bit - behind) / bit / 8) if bits and bit else None,
            standings=()
            if obstacles
            else tuple(each.standing(tiers, against=self._best.tiers) for each in self._sensitivities),
            chance=chance,
            obstacles=obstacles,
        )


def _neighbours(
    problem: FormProblem, tiers: tuple[int, ...], blocks: Mapping[str, str]
) -> list[tuple[str, tuple[int, ...]]]:
    """The best cuts of the model's own order in the block before and in the block after the chosen cut."""
    layers = problem.graph.layers
    runs = [-1, *(number for number, (_, run) in enumerate(groupby(blocks[y.name] for y in layers)) for _ in run)]
    end = max((position + 1 for position, tier in enumerate(tiers) if tier == 0), default=0)
    found = []
    for kind, run in (("earlier", runs[end] - 1), ("later", runs[end] + 1)):
        nearby = [cut for cut in problem.cuts() if runs[cut.ends[0]] == run]
        if nearby:
            cut = min(nearby, key=lambda cut: cut.latency_ns)
            found.append((kind, cut.tiers(len(layers))))
    return [(kind, placement) for kind, placement in found if placement != tiers]


def _trials(given: TwoHosts, best: Form) -> list[CodecTrial]:
    """Every other codec that a crossing tensor was measured in, the quickest first."""
    measured = codec_options(
        given.graph, 0, profiles=given.profiles, topology=given.topology, codecs=measured_codecs(given)
    )
    found = [
        CodecTrial(
            tensor=way.tensor,
            codec=way.codec,
            size_bytes=way.size_bytes,
            more_s=(way.total_ns - transfer.total_ns) * 1e-9,
            is_allowed=way.codec in given.codecs,
        )
        for transfer in best.transfers
        for way in measured[transfer.tensor]
        if way.codec != transfer.codec
    ]
    return sorted(found, key=lambda trial: (trial.tensor, trial.more_s))


def measured_codecs(given: TwoHosts) -> tuple[str, ...]:
    """Raw, and every codec that both hosts were measured with on any tensor."""
    both = [{name for costs in found.codecs.values() for name in costs} for found in given.profiles.values()]
    return tuple(sorted({"raw", *set.intersection(*both)}))


def _freed(given: TwoHosts, chosen: Weighed) -> Weighed | None:
    """The best plan, were every measured codec allowed; None when that is no better."""
    problem = given.problem(codecs=measured_codecs(given))
    best = problem.solve(problem.now)
    worth = float(best.worth(problem.now)) * 1e-9
    if worth >= chosen.worth:
        return None
    return Weighed(
        name=name_of(best, given.graph, blocks_of(given.graph)),
        kind="every codec",
        form=best,
        latency_s=float(best.at(problem.now)) * 1e-9,
        worth=worth,
        parts=Parts.of(best, problem.now),
        bytes_to_win=None,
        standings=(),
        chance=None,
    )
