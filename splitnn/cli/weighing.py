"""A plan for two hosts beside the ones that were not chosen, and what would have to change for each of them to win."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from splitnn.cli.blocks import blocks_of
from splitnn.cli.two_hosts import TwoHosts
from splitnn.cli.wording import Parts, name_of
from splitnn.cost.estimate import codec_options, tabulate
from splitnn.planner.chain import alternatives
from splitnn.planner.doubt import chance_quicker, interval_ns, relative_deviations
from splitnn.planner.forms import Form, FormProblem
from splitnn.planner.plan import Plan
from splitnn.planner.sensitivity import Sensitivity, Standing, axes_of

SURENESS = 0.9
_BIT_NS = 10**9


@dataclass(frozen=True, slots=True)
class Weighed:
    """One way to run the model: today, and how it fares when something changes."""

    name: str
    kind: str  # "chosen", "earlier", "later", "other cut" or "no cut"
    form: Form
    latency_s: float
    parts: Parts
    bytes_to_win: float | None  # as quick as the chosen plan if it sent so few; below 0: never; None: it sends nothing
    standings: tuple[Standing, ...]  # along each axis
    chance: float | None  # that it is quicker than the chosen plan in truth; None where the profiles do not tell

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
    freed: Weighed | None  # a quicker plan, were every measured codec allowed


def weigh(given: TwoHosts) -> Weighing:
    """Decide, and weigh the decision.

    Raises:
        ProfileMismatch: a profile belongs to another model.
    """
    problem = FormProblem(given.graph, given.profiles, given.topology, codecs=given.codecs)
    best = problem.solve(problem.now)
    scales = _Scales(given, problem, best)
    tiers = {("chosen", best.tiers): None, **dict.fromkeys(_neighbours(problem, best.tiers, scales.blocks))}
    table = tabulate(given.graph, given.profiles, given.topology, codecs=given.codecs)
    plan = Plan.priced(given.graph, best.tiers, table=table, model=given.digest, hosts=problem.hosts, mode=given.mode)
    known = {placement for _, placement in tiers}
    for other in alternatives(given.graph, given.profiles, given.topology, best=plan, codecs=given.codecs, count=3):
        if other.tiers not in known:
            tiers["no cut" if len(set(other.tiers)) == 1 else "other cut", other.tiers] = None
    chosen, *others = [scales.weigh(kind, placement) for kind, placement in tiers]
    others.sort(key=lambda weighed: weighed.latency_s)
    interval = None
    if scales.deviations is not None:
        low, high = interval_ns(best, chosen.latency_s * 1e9, scales.deviations, within=SURENESS)
        interval = (low * 1e-9, high * 1e-9)
    return Weighing(plan, chosen, tuple(others), interval, tuple(_trials(given, best)), _freed(given, chosen))


class _Scales:
    """What every placement is weighed on."""

    def __init__(self, given: TwoHosts, problem: FormProblem, best: Form) -> None:
        self.blocks = blocks_of(given.graph)
        self.deviations = relative_deviations(given.profiles, problem.hosts)
        self._graph = given.graph
        self._problem = problem
        self._best = best
        self._sensitivities = [Sensitivity(problem, axis) for axis in axes_of(problem)]

    def weigh(self, kind: str, tiers: Sequence[int]) -> Weighed:
        now = self._problem.now
        form = self._problem.priced(tiers, now)
        behind_ns = form.at(now) - self._best.at(now)
        bits = form.up_bits[0]
        bit_ns = now.up[0] * _BIT_NS
        chance = None
        if self.deviations is not None:
            chance = chance_quicker(form, self._best, self.deviations, behind_ns=float(behind_ns))
        return Weighed(
            name=name_of(form, self._graph, self.blocks),
            kind=kind,
            form=form,
            latency_s=float(form.at(now)) * 1e-9,
            parts=Parts.of(form, now),
            bytes_to_win=float((bits * bit_ns - behind_ns) / bit_ns / 8) if bits else None,
            standings=tuple(each.standing(tiers, against=self._best.tiers) for each in self._sensitivities),
            chance=chance,
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
    """The best plan, were every measured codec allowed; None when that is no quicker."""
    problem = FormProblem(given.graph, given.profiles, given.topology, codecs=measured_codecs(given))
    best = problem.solve(problem.now)
    if float(best.at(problem.now)) * 1e-9 >= chosen.latency_s:
        return None
    return Weighed(
        name=name_of(best, given.graph, blocks_of(given.graph)),
        kind="every codec",
        form=best,
        latency_s=float(best.at(problem.now)) * 1e-9,
        parts=Parts.of(best, problem.now),
        bytes_to_win=None,
        standings=(),
        chance=None,
    )
