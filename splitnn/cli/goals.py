"""What a plan is to achieve and to obey, as options of a command, and what these stand for."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from splitnn.cost.network import Topology, parse_bytes, parse_seconds

if TYPE_CHECKING:
    from splitnn.cost.energy import EnergyPrices
    from splitnn.graph.model import Model
    from splitnn.planner.choice import Choice
    from splitnn.planner.constraints import Constraints
    from splitnn.planner.meters import Tariff
    from splitnn.planner.objective import Objective

_POWER, _RADIO = "raspberry-pi-4", "wifi-pixel-2-xl"


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
    group.add_argument("--max-bytes", metavar="SIZE", help="the most that may travel, both ways, such as 200KB")
    group.add_argument(
        "--device-memory", metavar="SIZE",
        help="the most for weights and the largest working set on the first host, such as 512MB",
    )  # fmt: skip
    group.add_argument("--keep-on-device", metavar="LAYER", nargs="+", action="extend", default=[])
    group.add_argument(
        "--private", metavar="TENSOR", nargs="*",
        help="tensors that stay on the first host, with all that they are made from; without a name the model's "
        "inputs and what merely rearranges or rescales them",
    )  # fmt: skip
    group.add_argument(
        "--max-leakage", metavar="SCORE", type=float,
        help="tensors that tell more about the input than that (0 nothing, 1 everything) are private, too; measured on "
        "crops of sample photos, which takes up to a minute",
    )  # fmt: skip
    group.add_argument(
        "--forbid", metavar="OP=HOST", action="append", default=[],
        help="an operator that a host cannot run, such as convolution=device; repeat",
    )  # fmt: skip


def are_given(args: argparse.Namespace) -> bool:
    """Whether anything but the least latency is asked for."""
    asked = [args.objective, args.weights, args.deadline, args.max_bytes, args.device_memory, args.private]
    asked.append(args.max_leakage)
    return any(each is not None for each in asked) or bool(args.keep_on_device or args.forbid)


def objective_of(args: argparse.Namespace) -> Objective:
    """What to want.

    Raises:
        ValueError: the options name no objective, or two.
    """
    from splitnn.planner.objective import LATENCY, parse_objective

    if args.objective is not None and args.weights is not None:
        raise ValueError("--weights is a mix of objectives and --objective a single one: give one or the other")
    if args.weights is not None:
        if "=" not in args.weights:
            raise ValueError(f"--weights {args.weights}: expected a mix such as latency=1,energy=0.2")
        return parse_objective(args.weights)
    return LATENCY if args.objective is None else parse_objective(args.objective)


def constraints_of(args: argparse.Namespace, model: Model, *, device: str) -> Constraints:
    """What to obey.

    Raises:
        ValueError: an option is no time, size, score, or operator and host, or the model reads no photo to measure on.
    """
    from splitnn.planner.constraints import Constraints
    from splitnn.planner.privacy import copies_of_inputs

    forbidden: dict[str, list[str]] = {}
    for text in args.forbid:
        op, equals, host = text.partition("=")
        if not (op and equals and host):
            raise ValueError(f"--forbid {text}: expected OP=HOST, such as convolution=device")
        forbidden.setdefault(op, []).append(host)
    private = list(args.private or ())
    if args.private == []:
        private.extend(copies_of_inputs(model.graph))
    if args.max_leakage is not None:
        private.extend(_revealing(model, args.max_leakage))
    return Constraints(
        keep_on_device=args.keep_on_device,
        private=private,
        forbidden=forbidden,
        memory_bytes={} if args.device_memory is None else {device: parse_bytes(args.device_memory)},
        max_bytes=None if args.max_bytes is None else parse_bytes(args.max_bytes),
        deadline_s=None if args.deadline is None else parse_seconds(args.deadline),
    )


def _revealing(model: Model, threshold: float) -> tuple[str, ...]:
    from splitnn.cli.photos import crops
    from splitnn.cost.leakage import measure_leakage, too_revealing

    too_revealing({}, threshold=threshold)  # a threshold that is none is said before anything takes time
    return too_revealing(measure_leakage(model, crops(model)), threshold=threshold)


def energy_of(args: argparse.Namespace, topology: Topology) -> EnergyPrices | None:
    """What the device's seconds and bytes cost it; None for a single host.

    Raises:
        ValueError: no power or radio of that name; the message lists them.
    """
    from splitnn.cost.energy import energy_prices
    from splitnn.cost.power import device_power, radio

    device, air = device_power(args.power), radio(args.radio)
    if not topology.up:
        return None
    return energy_prices(device, air, up=topology.up[0], down=topology.down[0])


def tariff_of(args: argparse.Namespace) -> Tariff | None:
    """What servers and traffic cost; None when no price was given.

    Raises:
        ValueError: a price is negative or no number.
    """
    from splitnn.planner.meters import Tariff

    if args.server_hour is None and args.gigabyte is None:
        if "cost" in (args.objective, *(part.partition("=")[0] for part in (args.weights or "").split(","))):
            raise ValueError("cost takes prices: --server-hour PRICE, --gigabyte PRICE, or both")
        return None
    return Tariff(per_server_s=(args.server_hour or 0.0) / 3600, per_gb=args.gigabyte or 0.0)


def describe(choice: Choice, args: argparse.Namespace) -> list[str]:
    """What the plan takes of everything, and how much of it is proven, as lines."""
    name, amounts = choice.objective.name, choice.amounts
    if choice.objective.weights and name == "mix":
        name = ",".join(f"{quantity}={weight:g}" for quantity, weight in choice.objective.weights.items())
    proof = "proven optimal" if choice.is_optimal else f"at most {choice.gap:.1%} above the optimum"
    kind, number = choice.plan.predicted.bottleneck
    where = choice.plan.hosts[number] if kind == "host" else f"the way {kind} of hop {number + 1}"
    rate = f"{choice.plan.predicted.throughput_rps:.3g} requests a second, {where} is busiest"
    peak = ", ".join(f"{h} {size / 1e6:.3g} MB" for h, size in zip(choice.plan.hosts, choice.peak_bytes, strict=True))
    lines = [f"objective {name}: {proof}, {choice.cuts} minimum cuts", f"  {rate}; memory: {peak}"]
    if "energy" in amounts:
        published = f"by published figures of {args.power} and {args.radio}"
        lines.append(f"  {amounts['energy']:.3g} J of the device, modelled and not measured, {published}")
    if "cost" in amounts:
        lines.append(f"  {amounts['cost']:.3g} of money, {amounts['bytes']:.0f} bytes both ways")
    return lines


def to_json(choice: Choice) -> dict[str, Any]:
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
    }
