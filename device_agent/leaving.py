"""What early exits mean for a request to the agent: which may answer it, and what is kept to check the answer by."""

from __future__ import annotations

import torch

from device_agent.audit import Check
from device_agent.cloud import Cloud
from splitnn.errors import CodecError, InvalidInput
from splitnn.graph.exits import Exits
from splitnn.graph.graph import Graph
from splitnn.graph.model import Model
from splitnn.graph.segments import segments
from splitnn.planner.plan import Plan
from splitnn.runtime.exits import exits_asked_for
from splitnn.runtime.progress import Progress
from splitnn.transport.base import Request


def exits_for(model: Model, request: Request) -> Exits | None:
    """The exits that may answer; None where there are none, or where their outputs themselves are asked for.

    Raises:
        InvalidInput: the request's parameter ``exits`` makes no sense, or comes with a model that has none.
    """
    asked = request.parameters.get("exits", "all")
    if model.exits is None:
        if asked not in ("all", "none"):
            raise InvalidInput("the request's parameter 'exits': this model has no exits")
        return None
    if not set(request.wanted) <= {model.exits.exits[-1].output}:
        return None
    return exits_asked_for(model.exits, asked)


def answered_early(exits: Exits, progress: Progress) -> tuple[int, ...]:
    """The samples of a finished request that exits were sure of, on whichever host, not counting the last exit.

    Thresholds are as old where a server asks them as on the device.
    """
    passage, last = progress.passage, exits.exits[-1]
    if passage is None or not passage.is_over:
        return ()
    return tuple(row for row, answer in enumerate(passage.answers) if answer.exit != last.name)


def check_of(graph: Graph, exits: Exits, request: Request, progress: Progress, rows: tuple[int, ...]) -> Check:
    """What the cloud needs to say whether exits answered these samples (one at least) rightly.

    It gets the fewer bytes: the model's inputs, or what the device held when an exit was sure, or when it sent them on.
    """
    passage, last = progress.passage, exits.exits[-1]
    assert passage is not None  # somebody answered them
    candidates = [dict(request.tensors)]
    if len(passage.aboard) == len(passage.verdicts) and passage.tensors:
        (end,) = segments(graph, exits.only(last.name), passage.tensors).steps
        candidates.append({name: passage.tensors[name] for name in end.given})
    checks = [Check(request.request_id, tensors, passage.logits, rows) for tensors in candidates]
    return min(checks, key=lambda check: check.size_bytes)


async def ask_whole(
    cloud: Cloud, model: Model, check: Check, *, name: str, plan: Plan, deadline_s: float
) -> torch.Tensor:
    """What the whole model says of a request that exits have answered; its tensors travel as the plan sends them.

    Raises:
        RequestError, TransportError, CodecError: the cloud did not answer, or with something else.
    """
    assert model.exits is not None
    output = model.exits.exits[-1].output
    request = Request(
        model=name,
        tensors=check.tensors,
        deadline_s=deadline_s,
        digest=model.digest,
        request_id=f"check of {check.request_id}",
        codecs={name: codec for name in check.tensors for codec in plan.codecs.get(name, ())[:1]},
        wanted=(output,),
        parameters={"exits": "none"},
    )
    logits = (await cloud.infer(request)).tensors.get(output)
    if not isinstance(logits, torch.Tensor) or logits.shape != check.logits.shape:
        raise CodecError("the cloud answered a check with something else")
    return logits


def short_of_time(progress: Progress) -> str:
    """The reason for an answer that no exit was sure of."""
    assert progress.passage is not None
    unsure = sorted({answer.exit for answer in progress.passage.answers if not answer.is_sure})
    return f"the deadline left no time for more: answered by {', '.join(unsure)}, unsure"


def is_whole_tail(progress: Progress, exits: Exits | None) -> bool:
    """Whether the cloud ran all that was left, so that its time tells of its speed."""
    if progress.passage is None or exits is None:
        return True
    return all(answer.exit == exits.exits[-1].name for answer in progress.passage.answers)
