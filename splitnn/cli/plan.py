"""``splitnn plan``: find the best cut of a model for the links at hand."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from splitnn.cli.asking import NOT_USED, UNCALIBRATED, plan_json, report_plan
from splitnn.cli.blocks import blocks_of
from splitnn.cli.comparison import Option, no_cut, obeys, other_cuts
from splitnn.cli.decided import best_version
from splitnn.cli.doubts import doubts
from splitnn.cli.front import describe_front, find_front, front_json, parse_pair, plot_front
from splitnn.cli.goals import add_goals, describe, goals_of, to_json
from splitnn.cli.sources import MODEL_HELP, is_preset, open_model, open_profiles, predict_profiles
from splitnn.cli.two_hosts import chosen_codecs
from splitnn.cli.versions import Version, add_versions, limit_among, limit_of, versions_of
from splitnn.cli.wording import format_bytes
from splitnn.cost.network import Topology, format_rate
from splitnn.cost.profile import Profile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from splitnn.cli.goals import Goals
    from splitnn.graph.graph import Graph
    from splitnn.planner.exits import Weighed
    from splitnn.planner.plan import Plan

_DESCRIPTION = """\
Decide which layers of MODEL run on which host, and how the tensors between them travel, so that one request takes the
least time, or whatever else is wanted. Profiles are files that `splitnn profile` wrote, or presets of devices that were
never measured (such as raspberry-pi-4); a link is rate/round trip, up and down may differ.

  splitnn plan efficientnet_lite0 --device device.json --cloud cloud.json --link 10Mbps/20ms
  splitnn plan efficientnet_lite0 --device device.json --cloud cloud.json --link 2Mbps:20Mbps/40ms --codecs raw,int8
  splitnn plan efficientnet_lite0 --host phone=p.json --host edge=e.json --host cloud=c.json \\
      --link 50Mbps/4ms --link 1Gbps/30ms
  splitnn plan efficientnet_lite0 --device device.json --cloud cloud.json --link 1Mbps/20ms --max-accuracy-drop 2% \\
      --version versions/transform-0.5=device-0.5.json,cloud-0.5.json
  splitnn plan resnet18 --device raspberry-pi-4 --cloud cloud.json --link 10Mbps/20ms --objective energy \\
      --deadline 400ms --private --device-memory 64MB

A model with early exits is planned for the mean over samples of whatever is wanted, its exits as they are; with a
budget (--deadline, --max-bytes, --max-energy, --device-memory) it is the most accurate way to ask them in which every
sample keeps it; with --max-accuracy-drop the best way that loses no more (see `splitnn exits`).
"""


def add_parser(subparsers: Any) -> None:
    """Add ``plan`` to the command line."""
    parser = subparsers.add_parser(
        "plan",
        help="find the best cut of a model for the link at hand",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "--device", metavar="FILE", help="profile of the device, or a preset; with --cloud the short form of --host"
    )
    parser.add_argument("--cloud", metavar="FILE", help="profile of the server")
    parser.add_argument(
        "--host", metavar="NAME=FILE", action="append", default=[], help="a host of a chain, the device first; repeat"
    )
    parser.add_argument(
        "--link", metavar="LINK", action="append", default=[], required=True,
        help="between a host and the next one, such as 10Mbps/20ms; one a hop, in order",
    )  # fmt: skip
    parser.add_argument(
        "--codecs", metavar="NAMES", default="lossless",
        help="codecs that tensors may travel in, comma-separated (raw,int8), all, or lossless (default)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the plan and what it was compared with as JSON")
    add_goals(parser)
    add_versions(parser)
    group = parser.add_argument_group("what one goal costs in another")
    group.add_argument(
        "--pareto", metavar="FILE", nargs="?", const="", default=None,
        help="print the front of two goals, too; with FILE (.png, .svg, .pdf) draw it (takes matplotlib)",
    )  # fmt: skip
    group.add_argument(
        "--pareto-of", metavar="PAIR",
        help="the two goals of --pareto (default latency,energy), such as cost,throughput",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Decide and print."""
    files = _files(args)
    if args.pareto is None and args.pareto_of is not None:
        raise ValueError("--pareto-of names the two goals of --pareto: give --pareto, too")
    if len(files) < 2:
        raise ValueError(f"1 host ({', '.join(files)}) leaves nothing to divide: give --host NAME=FILE for another")
    if len(args.link) != len(files) - 1:
        raise ValueError(
            f"{len(files)} hosts ({', '.join(files)}) need {len(files) - 1} --link, not {len(args.link)}: "
            "one between each host and the next"
        )
    topology = Topology.chain(list(files), args.link)
    presets = {host: text for host, text in files.items() if is_preset(text)}
    measured = open_profiles({host: file for host, file in files.items() if host not in presets}, hosts=files)
    limit = limit_of(args)
    codecs, mode = chosen_codecs("all" if args.codecs == "lossless" and limit else args.codecs)
    model = open_model(args.model)
    for found in measured.values():
        found.check_fits(model.graph, model.digest)
    predicted = predict_profiles(presets, model, measured=measured)
    profiles = {host: predicted.get(host) or measured[host] for host in files}
    graph = model.graph
    goals = goals_of(args, model, topology)
    first = Version(args.model, model, profiles)
    versions = [first, *versions_of(args, first, list(files))]
    unused: list[Version] = []
    if args.pareto is not None:
        unused = [each for each in versions if each.model.exits is not None]
        versions = [replace(each, model=replace(each.model, exits=None)) for each in versions]
    stated = limit
    if stated is None:
        limit = limit_among(versions, goals=goals)
    decided, told = best_version(versions, topology, goals=goals, codecs=codecs, mode=mode, limit=limit)
    if stated is None and limit:
        told.insert(0, f"allowed is what {args.model} loses as it is; --max-accuracy-drop says otherwise")
    lost: dict[str, Any] = {}
    if limit is not None or len(versions) > 1:
        lost = {"version": decided.version.name, "lost_at_most": decided.lost, "versions": told}
    if decided.weighed:
        _print_exits(args, decided.version.name, decided.weighed, goals=goals, limit=limit, told=lost)
        if limit and not decided.is_calibrated(codecs):
            print(UNCALIBRATED, file=sys.stderr)
        return 0
    best, choice, version = decided.plan, decided.choice, decided.version
    graph, profiles = version.model.graph, version.profiles
    pair, front = parse_pair(args.pareto_of or "latency,energy"), None
    if args.pareto is not None:
        front = find_front(goals, pair, graph, profiles, topology, codecs=decided.codecs, mode=mode)
        if args.pareto:
            plot_front(front, pair, Path(args.pareto), title=f"{args.model}, {', '.join(args.link)}")
    others = [
        each
        for each in other_cuts(graph, profiles, topology, best=best, codecs=decided.codecs)
        if decided.allows(each.plan)
    ]
    allowed = partial(obeys, graph=graph, constraints=goals.constraints, energy=goals.energy)
    ends = [
        replace(option, is_ruled_out=not (decided.allows(option.plan) and allowed(option.plan)))
        for option in no_cut(graph, profiles, topology)
    ]
    if args.json:
        answer = _json(best, others, ends) | ({"choice": to_json(choice, goals)} if choice else {}) | lost
        print(json.dumps(answer | ({"front": front_json(front, pair)} if front else {})))
    else:
        said = told + (describe(choice, goals) if choice else [])
        if front:
            said += describe_front(front, pair, goals)
        if unused:
            said.append(f"{'its' if len(versions) == 1 else ', '.join(each.name for each in unused) + ':'} {NOT_USED}")
        report = _report(
            version.name, best, others, ends, goals=said, topology=topology, profiles=profiles, graph=graph
        )
        print(report)
    return 0


def _print_exits(
    args: argparse.Namespace,
    name: str,
    weighed: Sequence[Weighed],
    *,
    goals: Goals,
    limit: float | None = None,
    told: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """A plan that asks exits, and the other ways to ask them."""
    if args.json:
        print(json.dumps({**plan_json(weighed, goals=goals), **told}))
    else:
        print("\n".join([*told.get("versions", ()), report_plan(name, weighed, goals=goals, limit=limit)]))


def _files(args: argparse.Namespace) -> dict[str, str]:
    """File of each host's profile, the device first."""
    if not args.host:
        if args.device is None or args.cloud is None:
            raise ValueError("give --device FILE and --cloud FILE, or --host NAME=FILE for each host of a chain")
        return {"device": args.device, "cloud": args.cloud}
    if args.device is not None or args.cloud is not None:
        raise ValueError("--device and --cloud are the short form of two --host: give one or the other")
    files: dict[str, str] = {}
    for text in args.host:
        name, equals, file = text.partition("=")
        if not (name and equals and file):
            raise ValueError(f"--host {text}: expected NAME=FILE")
        if name in files:
            raise ValueError(f"--host {text}: there is a host {name!r} already")
        files[name] = file
    return files


def _json(best: Plan, others: list[Option], ends: list[Option]) -> dict[str, Any]:
    cost = best.predicted
    return {
        "plan": best.to_json(),
        "line": str(best),
        "predicted": {
            "compute_s": dict(zip(best.hosts, cost.compute_s, strict=True)),
            "transfer_s": cost.transfer_s,  # with handling
            "handling_s": dict(zip(best.hosts, cost.handling_s or (0.0,) * len(best.hosts), strict=True)),
            "total_s": cost.latency_s,
        },
        "transfers": [transfer._asdict() for transfer in cost.transfers],
        "alternatives": [_option_json(option) for option in others],
        "baselines": [_option_json(option) for option in ends],
    }


def _option_json(option: Option) -> dict[str, Any]:
    cost = option.plan.predicted
    return {
        "name": option.name, "total_s": cost.latency_s, "sent_bytes": cost.sent_bytes, "line": str(option.plan),
        "ruled_out": option.is_ruled_out,
    }  # fmt: skip


def _report(
    name: str,
    best: Plan,
    others: list[Option],
    ends: list[Option],
    *,
    goals: list[str],
    topology: Topology,
    profiles: dict[str, Profile],
    graph: Graph,
) -> str:
    cost = best.predicted
    lines = [f"{name} ({best.model[:12]}), {len(best.order)} layers, plan {best.id}"]
    blocks = blocks_of(graph)
    width = max(len(host) for host in best.hosts)
    for tier, (host, layers) in enumerate(zip(best.hosts, best.layers, strict=True)):
        where = _range([blocks[layer] for layer in layers])
        lines.append(f"  {host:<{width}}  {_ms(cost.compute_s[tier])}  {len(layers)} layers: {where}")
        crossing = [transfer for transfer in cost.transfers if transfer.hop == tier]
        for transfer in crossing:
            raw = graph.tensors[transfer.tensor].size_bytes
            plain = "" if transfer.codec == "raw" else f" (raw {format_bytes(raw)})"
            lines.append(
                f"  {'':<{width}}  {_ms(transfer.total_ns * 1e-9)}  -> {transfer.tensor} as {transfer.codec}, "
                f"{format_bytes(transfer.size_bytes)}{plain}"
            )
        if tier < len(topology.up):
            up, down = topology.up[tier], topology.down[tier]
            rates = format_rate(up.bandwidth_bps) + (
                "" if up.bandwidth_bps == down.bandwidth_bps else f" up, {format_rate(down.bandwidth_bps)} down"
            )
            used = "" if crossing else ", not used"
            lines.append(
                f"  {'':<{width}}  {'':>11}     {rates}, round trip {1e3 * (up.latency_s + down.latency_s):g} ms{used}"
            )
    parts = [f"{host} {seconds * 1e3:.2f}" for host, seconds in zip(best.hosts, cost.compute_s, strict=True)]
    handling_s = sum(cost.handling_s)
    lines.append(
        f"predicted {cost.latency_s * 1e3:.2f} ms: {', '.join(parts)}, "
        f"transfer {(cost.transfer_s - handling_s) * 1e3:.2f}, of it round trips {cost.round_trip_s * 1e3:.2f} "
        f"and results {cost.download_s * 1e3:.2f}, handling of messages and stages {handling_s * 1e3:.2f}"
    )
    errors = [f"{host} {found.error:.1%}" for host, found in profiles.items() if found.error is not None]
    if errors:
        lines.append(f"profiles' own errors: {', '.join(errors)}")
    lines.extend(doubts(profiles))
    lines.extend(goals)
    cuts = "quickest other cuts, whatever is wanted" if goals else "best other cuts"
    for title, options in ((cuts, others), ("without a cut", ends)):
        if options:
            lines.append(title)
        for option in options:
            more = option.plan.predicted.latency_s / cost.latency_s - 1 if cost.latency_s > 0 else 0.0
            sent = option.plan.predicted.sent_bytes
            size = (f", {format_bytes(sent)} sent" if sent else "") + (", ruled out" if option.is_ruled_out else "")
            lines.append(f"  {_ms(option.plan.predicted.latency_s)}  {more:+7.1%}  {option.name}{size}")
    return "\n".join([*lines, str(best)])


def _range(blocks: list[str]) -> str:
    if not blocks:
        return "none"
    return blocks[0] if len(set(blocks)) == 1 else f"{blocks[0]} ... {blocks[-1]}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:8.2f} ms"
