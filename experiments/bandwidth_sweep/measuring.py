"""Measures one model over one link: every way in turns, so that whatever disturbs the machine meets all of them."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any, Protocol

from experiments.bandwidth_sweep.cells import Measured, topology_of
from experiments.bandwidth_sweep.cuts import Survey
from experiments.bandwidth_sweep.ways import AGENT, CANDIDATE, Planning, Way, repriced
from experiments.emulation.shape import Shape
from splitnn.planner.plan import Plan

_DEADLINE_S = 110.0
_FIND_CLOUD_S = 60.0
_SLOW_S = 4.0  # predicted; a slower way is not worth a request that only warms it up
_SETTLED = 3  # requests of the agent's own choice that follow one plan
_MOST_SETTLING = 8
_LEAST_ROUNDS = 3
_CONTENDS = 1.3  # times the quickest median: whoever is within it after the least rounds gets them all
_MOST_FINALISTS = 12  # candidate cuts of a cell that get more than one request, the quickest first
_LEAST_CANDIDATES = 3  # that no baseline is, and that are measured however slow they were predicted
_TELLING = 2  # of the quickest remote ways get, in turns,
_WARMED = 4  # requests before the others, though they are compiled
_KEPT_COMPILED = 24  # the agent keeps 32 plans, its own among them


class Asking(Protocol):
    """Sends one request by a plan's line or ``auto``, number ``turn``; the answer's parameters, or ``failed``."""

    def __call__(self, plan: str, *, turn: int, deadline_s: float) -> dict[str, Any]: ...


class Compiled:
    """The ids of the plans that an agent keeps compiled: those that were asked for last."""

    def __init__(self) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, plan_id: object) -> bool:
        return plan_id in self._ids

    def add(self, plan_id: str) -> None:
        self._ids[plan_id] = None
        self._ids.move_to_end(plan_id)
        if len(self._ids) > _KEPT_COMPILED:
            self._ids.popitem(last=False)


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
    candidates: Sequence[Plan] = (),
    within: float = math.inf,
    rounds: int,
    way_s: float,
    chance: random.Random,
    pause_s: float = 0.03,
    compiled: Compiled | None = None,
) -> tuple[list[Measured], Survey]:
    """Measure all ways once, see what the agent chooses by itself, look at the candidate cuts, measure all in turns.

    A way gets ``rounds`` requests, or as many as fit into about ``way_s`` seconds, at least one. After three rounds
    only those go on whose median is within 1.3 times the quickest, and the agent's own: of the others another request
    moves neither oracle nor regret. The agent's choice is a way like the others, so that a choice that equals another
    way is not compared with itself. It is noted before the look at the candidates, which the agent learns from.

    ``candidates``, which come with the quickest by prediction first, get one request each; but for the first three,
    those predicted slower than ``within`` times both the quickest measured so far and the quickest predicted are left
    out. The twelve quickest of those within 1.3 times the quickest take part in the other rounds.

    After each request there is a pause: what the agent does behind an answer is not the next request's. ``compiled``
    are the plans that this agent keeps; one that is not among them gets a request that does not count first.
    """
    turns = _Turns(ask, compiled or Compiled(), pause_s=pause_s)
    for way in islice(cycle([way for way in ways if way.is_remote][:_TELLING]), _WARMED):
        turns.warm_up(way)  # tells the agent, and TCP, of a link that has just changed
    left_out = 0
    for turn in range(rounds):
        if turn == 1 or rounds == 1:
            ways = _with_choice(ways, _settled(ask, planning, shape, pause_s=3 * pause_s))
        if turn == 1:
            ways, left_out = _look(turns, ways, candidates, within=within)
        finalists = _finalists(turns, ways)
        for way in chance.sample(list(ways), len(ways)):
            is_through = turns.asked[way.plan.id] >= _turns(way, rounds=rounds, way_s=way_s)
            is_out = way.roles == (CANDIDATE,) and way.plan.id not in finalists
            if not (is_through or is_out) and (turn < _LEAST_ROUNDS or turns.contends(way)):
                turns.take(way, turn)
    if rounds == 1:
        ways, left_out = _look(turns, ways, candidates, within=within)
    measured = sum(math.isfinite(turns.p50_s(plan.id)) for plan in candidates)
    return [turns.measured(way) for way in ways], Survey(
        candidates=len(candidates),
        measured=measured,
        left_out=left_out,
        unanswered=len(candidates) - measured - left_out,
        within=within,
    )


def _finalists(turns: _Turns, ways: Sequence[Way]) -> set[str]:
    """Ids of the candidate cuts that are worth more than one request."""
    contending = [way.plan.id for way in ways if way.roles == (CANDIDATE,) and turns.contends(way)]
    return set(sorted(contending, key=turns.p50_s)[:_MOST_FINALISTS])


class _Turns:
    """Sends requests, each way's one at a time, and keeps what came of them."""

    def __init__(self, ask: Asking, compiled: Compiled, *, pause_s: float) -> None:
        self.asked: Counter[str] = Counter()
        self._ask, self._compiled, self._pause_s = ask, compiled, pause_s
        self._requests: dict[str, list[dict[str, Any]]] = {}
        self._failures: dict[str, list[str]] = {}

    def warm_up(self, way: Way) -> None:
        """A request that does not count, unless one takes long."""
        if way.plan.predicted.latency_s < _SLOW_S:
            self._send(way, turn=0)

    def take(self, way: Way, turn: int) -> None:
        """One request that counts."""
        name = way.plan.id
        if name not in self._compiled:
            self.warm_up(way)
        self.asked[name] += 1
        answer = self._send(way, turn=turn)
        if "failed" in answer:
            self._failures.setdefault(name, []).append(answer["failed"])
        else:
            self._requests.setdefault(name, []).append(answer | {"turn": turn})

    def p50_s(self, name: str) -> float:
        """Median of what went the way of this plan so far, infinite when nothing did."""
        went_s = [
            float(each["total_s"]) - float(each["choose_s"])
            for each in self._requests.get(name, ())
            if "degraded" not in each
        ]
        return statistics.median(went_s) if went_s else math.inf

    def quickest_s(self) -> float:
        """The least of all those medians."""
        return min(map(self.p50_s, self._requests), default=math.inf)

    def contends(self, way: Way) -> bool:
        """Whether another request of this way may yet move the oracle, or is the agent's own."""
        mine_s = self.p50_s(way.plan.id)
        return AGENT in way.roles or (math.isfinite(mine_s) and mine_s <= _CONTENDS * self.quickest_s())

    def measured(self, way: Way) -> Measured:
        requests = self._requests.get(way.plan.id, ())
        return Measured(
            way.plan,
            way.roles,
            tuple(request for request in requests if "degraded" not in request),
            tuple(request for request in requests if "degraded" in request),
            tuple(self._failures.get(way.plan.id, ())),
        )

    def _send(self, way: Way, *, turn: int) -> dict[str, Any]:
        answer = self._ask(str(way.plan), turn=turn, deadline_s=_DEADLINE_S)
        self._compiled.add(way.plan.id)
        time.sleep(self._pause_s)
        return answer


def _look(turns: _Turns, ways: Sequence[Way], candidates: Sequence[Plan], *, within: float) -> tuple[list[Way], int]:
    """One request of each candidate that may be the quickest: all ways now, and how many candidates were left out."""
    known = {way.plan.id: way for way in ways}
    left_out = new = 0
    for plan in candidates:
        longest_s = within * max(turns.quickest_s(), candidates[0].predicted.latency_s)
        if plan.id in known:
            known[plan.id] = Way(plan, (*known[plan.id].roles, CANDIDATE))
        elif new >= _LEAST_CANDIDATES and plan.predicted.latency_s > longest_s:
            left_out += 1
        else:
            new += 1
            known[plan.id] = Way(plan, (CANDIDATE,))
            turns.take(known[plan.id], 0)
    return list(known.values()), left_out


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
