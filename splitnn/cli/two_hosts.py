"""A device, a server and the link between them as options of a command, and what these stand for."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from splitnn.cli.goals import Goals, add_goals, goals_of
from splitnn.cli.sources import MODEL_HELP, is_preset, open_model, open_profiles, predict_profiles
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile

if TYPE_CHECKING:
    from splitnn.graph.exits import Exits
    from splitnn.graph.graph import Graph
    from splitnn.planner.forms import FormProblem
    from splitnn.planner.plan import Mode

DEVICE, CLOUD = "device", "cloud"

_OF_PLAN = {
    "--version": "it says which version is the best; then give that one as MODEL, with the profiles of it",
    "--max-accuracy-drop": "it says which codecs lose no more on which tensors; name those here (--codecs)",
}


@dataclass(frozen=True, slots=True)
class TwoHosts:
    """A model, where it may run, and how its tensors may travel."""

    name: str  # of the model, as the user gave it
    digest: str
    graph: Graph
    profiles: Mapping[str, Profile]
    topology: Topology
    codecs: tuple[str, ...]
    mode: Mode
    goals: Goals
    exits: Exits | None = None  # of a model that may answer early

    def problem(self, *, codecs: tuple[str, ...] | None = None) -> FormProblem:
        """All plans under any conditions, with what is wanted and obeyed; other codecs on request.

        Raises:
            ProfileMismatch, InfeasiblePlan, ValueError: as ``FormProblem``.
        """
        from splitnn.planner.forms import FormProblem

        goals = self.goals
        return FormProblem(
            self.graph,
            self.profiles,
            self.topology,
            codecs=self.codecs if codecs is None else codecs,
            constraints=goals.constraints,
            objective=goals.objective,
            energy=goals.energy,
            tariff=goals.tariff,
        )


def add_two_hosts(parser: Any) -> None:
    """Add the options that ``open_two_hosts`` reads, but for ``--link``."""
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--device", metavar="FILE", required=True, help="profile of the device, or a preset")
    parser.add_argument("--cloud", metavar="FILE", required=True, help="profile of the server")
    parser.add_argument(
        "--codecs", metavar="NAMES", default="lossless",
        help="codecs that tensors may travel in, comma-separated (raw,int8), all, or lossless (default)",
    )  # fmt: skip
    add_goals(parser)
    for option in _OF_PLAN:
        parser.add_argument(option, action="append", default=[], help=argparse.SUPPRESS)


def open_two_hosts(args: argparse.Namespace) -> TwoHosts:
    """What the options name.

    Raises:
        OSError, ValueError, SplitnnError: a file, link, codec or model that is none, or a profile of another model.
    """
    for option, instead in _OF_PLAN.items():
        if getattr(args, option.removeprefix("--").replace("-", "_")):
            raise ValueError(f"{option} is for `splitnn plan`: {instead}")
    topology = Topology.chain([DEVICE, CLOUD], [args.link])
    codecs, mode = chosen_codecs(args.codecs)
    files = {DEVICE: args.device, CLOUD: args.cloud}
    presets = {host: text for host, text in files.items() if is_preset(text)}
    measured = open_profiles({host: file for host, file in files.items() if host not in presets}, hosts=files)
    model = open_model(args.model)
    for found in measured.values():
        found.check_fits(model.graph, model.digest)
    predicted = predict_profiles(presets, model, measured=measured)
    profiles = {host: predicted.get(host) or measured[host] for host in files}
    goals = goals_of(args, model, topology)
    return TwoHosts(args.model, model.digest, model.graph, profiles, topology, codecs, mode, goals, model.exits)


def chosen_codecs(names: str) -> tuple[tuple[str, ...], Mode]:
    """The allowed codecs, and what they leave of equality.

    Raises:
        ValueError: a name that no codec has.
    """
    from splitnn.transport.codec import CODECS, codec

    if names in ("all", "lossless"):
        chosen = tuple(each for each in CODECS.values() if names == "all" or each.lossless)
    else:
        chosen = tuple(codec(name) for name in names.split(","))
    return tuple(each.name for each in chosen), "exact" if all(each.lossless for each in chosen) else "fast"
