"""What a plan is to achieve and to obey, as options of a command, and what these stand for."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from splitnn.cli.privacy import Leak, add_privacy, private_tensors
from splitnn.cost.energy import EnergyPrices, energy_prices
from splitnn.cost.network import Topology, parse_bytes, parse_seconds
from splitnn.cost.power import device_power, radio
from splitnn.errors import InfeasiblePlan
from splitnn.planner.constraints import Constraints
from splitnn.planner.meters import Tariff
from splitnn.planner.objective import LATENCY, Objective, parse_objective

if TYPE_CHECKING:
    from collections.abc import Mapping

    from splitnn.cost.estimate import Codecs
    from splitnn.cost.profile import Profile
    from splitnn.graph.graph import Graph
    from splitnn.graph.model import Model
    from splitnn.planner.choice import Choice
    from splitnn.planner.plan import Mode

_POWER, _RADIO = "raspberry-pi-4", "wifi-pixel-2-xl"


@dataclass(frozen=True, slots=True)
class Goals:
    """What is wanted and what is to be obeyed, with the prices that it takes."""

    objective: Objective
    constraints: Constraints
    energy: EnergyPrices | None
    tariff: Tariff | None
    power: str  # the published figures that ``energy`` comes from
    radio: str
    leakage: Leak | None  # of ``--private`` without names, or a threshold
    are_stated: bool  # whether the user asked for anything of it


def add_goals(parser: Any) -> None:
    """Add the options that the other functions read."""
    group = parser.add_argument_group("what to want (the least latency unless told)")
    group.add_argument(
        "--objective", metavar="WHAT", help="latency, energy (of the device), throughput, bytes (both ways) or cost"
    )
    group.add_argument(
        "--weights", metavar="MIX", help="instead of --objective a weighted sum, a unit each: latency=1,energy=0.2"
    )
    group.add_argument(
        "--power", metavar="NAME", default=_POWER,
        help=f"published watts of the device, for energy; modelled, not measured (default {_POWER})",
    )  # fmt: skip
    group.add_argument("--radio", metavar="NAME", default=_RADIO, help=f"and of its radio (default {_RADIO})")
    group.add_argument("--server-hour", metavar="PRICE", type=float, help="price of an hour of a server, for cost")
    group.add_argument("--gigabyte", metavar="PRICE", type=float, help="price of 10^9 bytes over a link, for cost")
    group = parser.add_argument_group("what to obey")
    group.add_argument("--deadline", metavar="TIME", help="the longest latency, such as 100ms")
    group.add_argument(
        "--max-energy", metavar="JOULES", type=float, help="the most that a request may cost the device, as modelled"
    )
    group.add_argument("--max-bytes", metavar="SIZE", help="the most that may travel, both ways, such as 200KB")
    group.add_argument(
        "--device-memory", metavar="SIZE",
        help="the most for weights and the largest working set on the first host, such as 512MB",
    )  # fmt: skip
    group.add_argument(
        "--keep-on-device", metavar="LAYER", nargs="+", action="extend", default=[],
        help="layers that stay on the first host, or modules (features.3), as `splitnn layers MODEL` lists them",
    )  # fmt: skip
    add_privacy(group)
    group.add_argument(
        "--forbid", metavar="OP=HOST", action="append", default=[],
        help="an operator that a host cannot run, such as conv2d=device; repeat",
    )  # fmt: skip


def goals_of(args: argparse.Namespace, model: Model, topology: Topology) -> Goals:
    """What the options ask for.

    Raises:
        ValueError: an option is none of what it should be; the message says which.
    """
    objective, tariff, energy = _objective(args), _tariff(args), _energy(args, topology)
    private, leakage = private_tensors(args, model)
    constraints = Constraints(
        keep_on_device=tuple(args.keep_on_device),
        private=private,
        forbidden=_forbidden(args),
        memory_bytes={} if args.device_memory is None else {topology.hosts[0].name: parse_bytes(args.device_memory)},
        max_bytes=None if args.max_bytes is None else parse_bytes(args.max_bytes),
        deadline_s=None if args.deadline is None else parse_seconds(args.deadline),
        max_energy_j=args.max_energy,
    )
    stated = args.objective is not None or objective is not LATENCY or constraints != Constraints()
    return Goals(objective, constraints, energy, tariff, args.power, args.radio, leakage, stated)


def _objective(args: argparse.Namespace) -> Objective:
    if args.objective is not None and args.weights is not None:
        raise ValueError("--weights is a mix of objectives and --objective a single one: give one or the other")
    if args.weights is not None:
        if "=" not in args.weights:
            raise ValueError(f"--weights {args.weights}: expected a mix such as latency=1,energy=0.2")
        return parse_objective(args.weights)
    return LATENCY if args.objective is None else parse_objective(args.objective)


def _forbidden(args: argparse.Namespace) -> dict[str, list[str]]:
    forbidden: dict[str, list[str]] = {}
    for text in args.forbid:
        op, equals, host = text.partition("=")
        if not (op and equals and host):
            raise ValueError(f"--forbid {text}: expected OP=HOST, such as conv2d=device")
        forbidden.setdefault(op, []).append(host)
    return forbidden


def _energy(args: argparse.Namespace, topology: Topology) -> EnergyPrices | None:
    """What the device's seconds and bytes cost it; None for a single host."""
    device, air = device_power(args.power), radio(args.radio)
    return energy_prices(device, air, up=topology.up[0], down=topology.down[0]) if topology.up else None


def _tariff(args: argparse.Namespace) -> Tariff | None:
    """What servers and traffic cost; None when no price was given."""
    if args.server_hour is None and args.gigabyte is None:
        if "cost" in (args.objective, *(part.partition("=")[0] for part in (args.weights or "").split(","))):
            raise ValueError("cost takes prices: --server-hour PRICE, --gigabyte PRICE, or both")
        return None
    return Tariff(per_server_s=(args.server_hour or 0.0) / 3600, per_gb=args.gigabyte or 0.0)


def decide(
    goals: Goals,
    graph: Graph,
    profiles: Mapping[str, Profile],
    topology: Topology,
    *,
    codecs: Codecs,
    mode: Mode,
) -> Choice:
    """The best plan for them.

    Raises:
        InfeasiblePlan: there is none; the message ends with the nearest plan, where there is one.
    """
    from splitnn.planner.choice import choose

    try:
        return choose(
            graph,
            profiles,
            topology,
            objective=goals.objective,
            constraints=goals.constraints,
            codecs=codecs,
            mode=mode,
            energy=goals.energy,
            tariff=goals.tariff,
        )
    except InfeasiblePlan as error:
        if error.nearest is None:
            raise
        raise InfeasiblePlan(f"{error}; it is {error.nearest}", error.nearest) from None


def describe(choice: Choice, goals: Goals) -> list[str]:
    """What the plan takes of everything, and how much of it is proven, as lines."""
    name, amounts = choice.objective.name, choice.amounts
    if choice.objective.weights and name == "mix":
        name = ",".join(f"{quantity}={weight:g}" for quantity, weight in choice.objective.weights.items())
    proof = "proven optimal" if choice.is_optimal else f"at most {choice.gap:.1%} above the optimum"
    kind, number = choice.plan.predicted.bottleneck
    where = choice.plan.hosts[number] if kind == "host" else f"the way {kind} of hop {number + 1}"
    rate = f"{choice.plan.predicted.throughput_rps:.3g} requests a second, {where} is busiest"
    peak = ", ".join(f"{h} {size / 1e6:.3g} MB" for h, size in zip(choice.plan.hosts, choice.peak_bytes, strict=True))
    lines = [
        f"objective {name}: {proof}, {choice.cuts} minimum cut{'' if choice.cuts == 1 else 's'}",
        f"  {rate}; memory: {peak}",
    ]
    if "energy" in amounts:
        published = f"by published figures of {goals.power} and {goals.radio}"
        lines.append(f"  {amounts['energy']:.3g} J of the device, modelled and not measured, {published}")
    if "cost" in amounts:
        lines.append(f"  {amounts['cost']:.3g} of money, {amounts['bytes']:.0f} bytes both ways")
    if goals.leakage is not None:
        lines += goals.leakage.describe([name for hop in choice.plan.hops for name in hop])
    return lines


def to_json(choice: Choice, goals: Goals) -> dict[str, Any]:
    """The same for programs."""
    return {
        "objective": choice.objective.name,
        "weights": dict(choice.objective.weights),
        "value": choice.value,
        "bound": choice.bound,
        "gap": choice.gap,
        "is_optimal": choice.is_optimal,
        "minimum_cuts": choice.cuts,
        "amounts": dict(choice.amounts),
        "throughput_rps": choice.plan.predicted.throughput_rps,
        "peak_bytes": dict(zip(choice.plan.hosts, choice.peak_bytes, strict=True)),
        "leakage": None if goals.leakage is None else goals.leakage.scores,
    }
