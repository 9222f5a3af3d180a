"""Cut a trained PyTorch model between hosts, and move the cut with the network.

The path: ``capture`` a module (or ``open_model`` one by its name), ``profile`` it on every host, ``plan`` for the links
at hand, ``split`` it into stages.
Importing this package imports nothing else; torch is loaded with the first name that needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from splitnn.cost.cost import Cost as Cost
    from splitnn.cost.estimate import estimate as estimate
    from splitnn.cost.network import Host as Host
    from splitnn.cost.network import Link as Link
    from splitnn.cost.network import Topology as Topology
    from splitnn.cost.profile import Profile as Profile
    from splitnn.cost.profiler import profile as profile
    from splitnn.graph.capture import capture as capture
    from splitnn.graph.graph import Graph as Graph
    from splitnn.graph.model import Model as Model
    from splitnn.planner.choice import Choice as Choice
    from splitnn.planner.choice import choose as choose
    from splitnn.planner.constraints import Constraints as Constraints
    from splitnn.planner.envelope import Envelope as Envelope
    from splitnn.planner.envelope import compute_envelope as compute_envelope
    from splitnn.planner.min_cut import plan as plan
    from splitnn.planner.objective import Objective as Objective
    from splitnn.planner.plan import Plan as Plan
    from splitnn.runtime.host import ModelHost as ModelHost
    from splitnn.runtime.pipeline import Pipeline as Pipeline
    from splitnn.runtime.stage import Stage as Stage
    from splitnn.runtime.stage import split as split
    from splitnn.transport.local import LocalTransport as LocalTransport
    from splitnn.zoo.sources import open_model as open_model

_HOME = {
    "open_model": "splitnn.zoo.sources",
    "capture": "splitnn.graph.capture",
    "Model": "splitnn.graph.model",
    "Graph": "splitnn.graph.graph",
    "profile": "splitnn.cost.profiler",
    "Profile": "splitnn.cost.profile",
    "Host": "splitnn.cost.network",
    "Link": "splitnn.cost.network",
    "Topology": "splitnn.cost.network",
    "estimate": "splitnn.cost.estimate",
    "Cost": "splitnn.cost.estimate",
    "plan": "splitnn.planner.min_cut",
    "Plan": "splitnn.planner.plan",
    "Objective": "splitnn.planner.objective",
    "Constraints": "splitnn.planner.constraints",
    "choose": "splitnn.planner.choice",
    "Choice": "splitnn.planner.choice",
    "compute_envelope": "splitnn.planner.envelope",
    "Envelope": "splitnn.planner.envelope",
    "split": "splitnn.runtime.stage",
    "Stage": "splitnn.runtime.stage",
    "ModelHost": "splitnn.runtime.host",
    "LocalTransport": "splitnn.transport.local",
    "Pipeline": "splitnn.runtime.pipeline",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'splitnn' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
