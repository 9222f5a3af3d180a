"""One model over one link: every way measured in turns, so that whatever disturbs the machine meets all of them."""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from experiments.shape import Shape
from experiments.sweep_ways import AGENT, Planning, Way, repriced
from experiments.virtual_clock import PAYLOAD_SHARE
from splitnn.cost.network import Host, Link, Topology
from splitnn.planner.plan import Plan

_DEADLINE_S = 110.0
_FIND_CLOUD_S = 60.0
_SLOW_S = 4.0  # predicted; a slower way is not worth a request that only warms it up
_SETTLED = 3  # requests of the agent's own choice that follow one plan
_MOST_SETTLING = 8
_LEAST_ROUNDS = 3
_CONTENDS = 1.3  # times the quickest median: whoever is within it after the least rounds gets them all
_WARMED = 2  # of the quickest ways over the link get a request before the others though they are compiled


class Asking(Protocol):
    """Sends one request by a plan's line or ``auto``, number ``turn``; the answer's parameters, or ``failed``."""

    def __call__(self, plan: str, *, turn: int, deadline_s: float) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Measured:
    """One way over one link: what was predicted, and its requests in the order of the rounds."""

    plan: Plan  # priced by the profile and the stated link, before anything was observed
    roles: tuple[str, ...]
    requests: tuple[dict[str, Any], ...]  # those that went this way
    degraded: tuple[dict[str, Any], ...] = ()  # those that the agent finished without the cloud, against the plan
    failures: tuple[str, ...] = ()

    def number(self, name: str) -> float:
        """Median over the requests."""
        return statistics.median(float(request[name]) for request in self.requests)

    @property
    def latencies_s(self) -> list[float]:
        """Of each request, in the agent, without the search for a plan that the request itself asked for."""
        return [request["total_s"] - request["choose_s"] for request in self.requests]

    @property
    def p50_s(self) -> float:
        return statistics.median(self.latencies_s)

    @property
    def p95_s(self) -> float:
        """Of few requests the longest."""
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]

    @property
    def seen_s(self) -> float:
        """Median seconds that the application waited, without that search."""
        return statistics.median(float(request["seen_s"] - request["choose_s"]) for request in self.requests)

    def wire_limit_s(self, shape: Shape) -> float:
        """What TCP over this link takes at least for the bytes of the median request: every frame, one round trip."""
        sent, received = self.number("sent_bytes"), self.number("received_bytes")
        if not sent:
            return 0.0
        return shape.rtt_s + (sent * 8 / shape.up_bps + received * 8 / shape.down_bps) / PAYLOAD_SHARE


@dataclass(frozen=True)
class Cell:
    """One model over one link."""

    model: str
    shape: Shape
    is_calibrated: bool
    ways: tuple[Measured, ...]
    load: float  # runnable threads of the machine meanwhile
    switches_bps: tuple[float, ...] = ()  # where the planner would change plans, at this round trip
    notes: tuple[str, ...] = field(default=())
    about: Mapping[str, str] = field(default_factory=dict)  # commit, machine and date of the run that measured it

    def find(self, role: str) -> Measured | None:
        """The way that plays this part, when it was measured."""
        return next((way for way in self.ways if role in way.roles and way.requests), None)

    @property
    def chosen(self) -> Measured | None:
        """The plan that the agent followed of its own accord."""
        return self.find(AGENT)

    @property
    def oracle(self) -> Measured | None:
        """The way with the least median, of all that were measured."""
        return min((way for way in self.ways if way.requests), key=lambda way: way.p50_s, default=None)


def topology_of(shape: Shape) -> Topology:
    """What a planner is told of a link whose rate counts frames."""
    up = Link(shape.up_bps * PAYLOAD_SHARE, shape.rtt_s / 2)
    down = Link(shape.down_bps * PAYLOAD_SHARE, shape.rtt_s / 2)
    return Topology((Host("device"), Host("cloud")), (up,), (down,))


def wait_for_cloud(ask: Asking) -> None:
    """Until a request that needs the cloud is answered by it.

    Raises:
        RuntimeError: it is not within a minute.
    """
    until_s = time.monotonic() + _FIND_CLOUD_S
    while True:
        answer = ask("cloud", turn=0, deadline_s=_DEADLINE_S)
        if "degraded" not in answer and "failed" not in answer:
            return
        if time.monotonic() > until_s:
            raise RuntimeError(f"the agent does not find the cloud: {answer.get('degraded') or answer.get('failed')}")
        time.sleep(0.5)


def measure_cell(
    ask: Asking,
    planning: Planning,
    ways: Sequence[Way],
    shape: Shape,
    *,
    rounds: int,
    way_s: float,
    chance: random.Random,
    pause_s: float = 0.03,
    warm: set[str] | None = None,
) -> list[Measured]:
    """Warm ways up, measure all once, see what the agent chooses by itself from then on, and measure all in turns.

    A way gets ``rounds`` requests, or as many as fit into about ``way_s`` seconds, at least one. After three rounds
    only those go on whose median is within 1.3 times the quickest, and the agent's own: of the others another request
    moves neither oracle nor regret. The agent's choice is a way like the others, so that a choice that equals another
    way is not compared with itself. After each request there is a pause: what the agent does behind an answer is not
    the next request's. ``warm`` names the plans that this agent has compiled already; those of this cell join.
    """
    warm = set() if warm is None else warm
    sent = 0
    for way in ways:
        tells_of_link = way.is_remote and sent < _WARMED
        if way.plan.predicted.latency_s < _SLOW_S and (tells_of_link or way.plan.id not in warm):
            ask(str(way.plan), turn=0, deadline_s=_DEADLINE_S)
            warm.add(way.plan.id)
            sent += way.is_remote
    requests: dict[str, list[dict[str, Any]]] = {}
    failures: dict[str, list[str]] = {}
    asked: Counter[str] = Counter()
    for turn in range(rounds):
        if turn == min(1, rounds - 1):
            ways = _with_choice(ways, _settled(ask, planning, shape, pause_s=3 * pause_s))
        for way in chance.sample(list(ways), len(ways)):
            name = way.plan.id
            is_through = asked[name] >= _turns(way, rounds=rounds, way_s=way_s)
            if is_through or (turn >= _LEAST_ROUNDS and not _contends(way, requests)):
                continue
            asked[name] += 1
            answer = ask(str(way.plan), turn=turn, deadline_s=_DEADLINE_S)
            if "failed" in answer:
                failures.setdefault(name, []).append(answer["failed"])
            else:
                requests.setdefault(name, []).append(answer | {"turn": turn})
            time.sleep(pause_s)
    return [_measured(way, requests.get(way.plan.id, ()), failures.get(way.plan.id, ())) for way in ways]


def _contends(way: Way, requests: Mapping[str, Sequence[dict[str, Any]]]) -> bool:
    medians_s = {
        name: statistics.median(float(each["total_s"]) - float(each["choose_s"]) for each in found)
        for name, found in (
            (name, [each for each in found if "degraded" not in each]) for name, found in requests.items()
        )
        if found
    }
    mine_s = medians_s.get(way.plan.id)
    return AGENT in way.roles or (mine_s is not None and mine_s <= _CONTENDS * min(medians_s.values()))


def _measured(way: Way, requests: Sequence[dict[str, Any]], failures: Sequence[str]) -> Measured:
    carried_out = tuple(request for request in requests if "degraded" not in request)
    degraded = tuple(request for request in requests if "degraded" in request)
    return Measured(way.plan, way.roles, carried_out, degraded, tuple(failures))


def _settled(ask: Asking, planning: Planning, shape: Shape, *, pause_s: float) -> Plan | None:
    """The agent's own choice, once several requests have followed one plan."""
    last, same = "", 0
    for _ in range(_MOST_SETTLING):
        answer = ask("auto", turn=0, deadline_s=_DEADLINE_S)
        time.sleep(pause_s)
        if "failed" in answer:
            continue
        line = str(answer["plan"])
        same = same + 1 if _decision(line) == _decision(last) else 1
        last = line
        if same >= _SETTLED:
            break
    if not last:
        return None
    return repriced(
        planning, Plan.parse(last, planning.graph, model=planning.profiles["device"].model), topology_of(shape)
    )


def _decision(line: str) -> str:
    """A plan's line without its prediction, which moves with every transfer."""
    return line.split("| model")[0]


def _with_choice(ways: Sequence[Way], choice: Plan | None) -> list[Way]:
    if choice is None:
        return list(ways)
    known = [way for way in ways if way.plan.id == choice.id]
    others = [way for way in ways if way.plan.id != choice.id]
    return [*others, Way(choice, (*(known[0].roles if known else ()), AGENT))]


def _turns(way: Way, *, rounds: int, way_s: float) -> int:
    fitting = int(way_s / max(way.plan.predicted.latency_s, 1e-3))
    return max(1, min(rounds, fitting))
