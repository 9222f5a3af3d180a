"""``splitnn plan --pareto``: what one goal costs in another, as rows, as JSON and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitnn.cli.goals import Goals
from splitnn.cli.wording import format_amount
from splitnn.planner.constraints import Constraints
from splitnn.planner.objective import UNITS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from splitnn.cost.estimate import Codecs
    from splitnn.cost.network import Topology
    from splitnn.cost.profile import Profile
    from splitnn.graph.graph import Graph
    from splitnn.planner.pareto import FrontPoint
    from splitnn.planner.plan import Mode


def parse_pair(text: str) -> tuple[str, str]:
    """``latency,energy`` as a pair.

    Raises:
        ValueError: the text is none.
    """
    names = text.split(",")
    if len(names) != 2:
        raise ValueError(f"--pareto-of {text}: expected two goals, such as latency,energy")
    return names[0].strip(), names[1].strip()


def find_front(
    goals: Goals,
    pair: tuple[str, str],
    graph: Graph,
    profiles: Mapping[str, Profile],
    topology: Topology,
    *,
    codecs: Codecs,
    mode: Mode,
) -> tuple[FrontPoint, ...]:
    """The front under the goals' constraints, budgets left out: whoever looks at a front is choosing them.

    Raises:
        InfeasiblePlan, ValueError: as ``splitnn.planner.pareto.pareto``.
    """
    from splitnn.planner.pareto import pareto

    where = Constraints(
        pins=goals.constraints.pins,
        keep_on_device=goals.constraints.keep_on_device,
        private=goals.constraints.private,
        forbidden=goals.constraints.forbidden,
    )
    return pareto(
        graph,
        profiles,
        topology,
        pair=pair,
        energy=goals.energy,
        tariff=goals.tariff,
        constraints=where,
        codecs=codecs,
        mode=mode,
    )


def describe_front(points: tuple[FrontPoint, ...], pair: tuple[str, str], goals: Goals) -> list[str]:
    """One line a plan."""
    modelled = f"; joules modelled by {goals.power} and {goals.radio}" if "energy" in pair else ""
    left_out = " and ".join(goals.constraints.unbounded())
    budgets = f"; without the limits of {left_out}" if left_out else ""
    count = "1 plan" if len(points) == 1 else f"{len(points)} plans"
    lines = [f"front of {pair[0]} against {pair[1]}: {count}{modelled}{budgets}"]
    for point in points:
        amounts = f"{_shown(point.first, pair[0]):>14}  {_shown(point.second, pair[1]):>14}"
        lines.append(f"  {amounts}  {point.plan}")
    return lines


def front_json(points: tuple[FrontPoint, ...], pair: tuple[str, str]) -> dict[str, Any]:
    """The same for programs; throughput as seconds between two requests."""
    return {
        "pair": list(pair),
        "units": [UNITS[name] for name in pair],
        "points": [
            {"first": p.first, "second": p.second, "from_price": p.from_price, "line": str(p.plan), "id": p.plan.id}
            for p in points
        ],
    }


def plot_front(points: tuple[FrontPoint, ...], pair: tuple[str, str], path: Path, *, title: str) -> None:
    """Write the picture, in the format that the file's name says.

    Raises:
        ValueError: no format of that name.
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 4))
    axis.plot([point.first for point in points], [point.second for point in points], marker="o")
    for number, point in enumerate(points):
        axis.annotate(str(number + 1), (point.first, point.second), textcoords="offset points", xytext=(5, 5))
    axis.set_xlabel(_axis(pair[0]))
    axis.set_ylabel(_axis(pair[1]))
    axis.set_title(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _axis(name: str) -> str:
    said = {
        "latency": "latency, s (predicted)",
        "energy": "device energy, J (modelled)",
        "throughput": "seconds between two requests (predicted)",
        "bytes": "bytes over the links, both ways",
    }
    return said.get(name, name)


def _shown(value: float, name: str) -> str:
    if name == "throughput":
        return f"{1 / value:.4g} a second" if value else "no limit"
    return format_amount(value, UNITS[name])
