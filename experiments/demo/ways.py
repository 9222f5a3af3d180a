"""Every way to answer a photo, measured side by side through the agent, and what each costs in answers."""

from __future__ import annotations

import asyncio
import functools
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.table import Table

from splitnn import zoo
from splitnn.cost.estimate import tabulate
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile
from splitnn.graph.model import Model
from splitnn.planner.plan import Plan
from splitnn.runtime.stage import stage
from splitnn.transport.base import Answer, Parameter, Request
from splitnn.transport.codec import CODECS
from splitnn.transport.open_inference import GrpcTransport

MODEL = "efficientnet_lite0"
TIMEOUT_S = 20.0
_RECOVERY_S = 3.0  # until the agent uses a server again that was too slow for it


@dataclass(frozen=True, slots=True)
class Way:
    """One way to answer at one rate of the link: medians over its requests."""

    rate: str
    name: str
    head_s: float
    transfer_s: float
    tail_s: float
    sent_bytes: int
    agreement: float  # share of photos that get the label of the unsplit model
    gave_up: int = 0  # requests that the agent finished on the device because the link was too slow for this way

    @property
    def total_s(self) -> float:
        """Seconds from the photo to its label."""
        return self.head_s + self.transfer_s + self.tail_s


def photos() -> dict[str, torch.Tensor]:
    """Real photos by name, each uint8 (1, 224, 224, 3)."""
    return {name: torch.from_numpy(photo)[None] for name, photo in zoo.photos(224).items()}


async def ask(agent: GrpcTransport, photo: torch.Tensor, plan: str = "") -> Answer:
    """What any application does: send the photo, take the answer. ``plan`` asks for one way, for the table."""
    parameters: dict[str, Parameter] = {"plan": plan} if plan else {}
    request = Request(MODEL, {"image": photo}, deadline_s=time.monotonic() + TIMEOUT_S, parameters=parameters)
    return await agent.infer(request)


def parts(answer: Answer) -> dict[str, float]:
    """Seconds of the three parts that every way has."""
    numbers = answer.parameters
    return {
        "head": float(numbers["head_s"]) + float(numbers["queue_s"]),
        "transfer": float(numbers["transfer_s"]),
        "tail": float(numbers["tail_s"]) + float(numbers["cloud_queue_s"]) + float(numbers["local_tail_s"]),
    }


async def measure(agent: GrpcTransport, model: Model, rate: str, plans: Mapping[str, str]) -> list[Way]:
    """Medians of every way at this rate; all ways take turns, so that noise meets them alike."""
    found: dict[str, list[Answer]] = {name: [] for name in plans}
    views = list(photos().values())[:4]
    for photo in (views[0], *views):  # the first one warms the link and the stages
        for name, plan in plans.items():
            if any("degraded" in answer.parameters for answer in found[name]):
                continue  # too slow at this rate; once is enough
            found[name].append(answer := await ask(agent, photo, plan))
            if "degraded" in answer.parameters:
                await asyncio.sleep(_RECOVERY_S)
    return [_way(rate, name, model, answers[1:] or answers) for name, answers in found.items()]


def _way(rate: str, name: str, model: Model, answers: Sequence[Answer]) -> Way:
    seconds = [parts(answer) for answer in answers]
    return Way(
        rate=rate,
        name=name,
        head_s=statistics.median(part["head"] for part in seconds),
        transfer_s=statistics.median(part["transfer"] for part in seconds),
        tail_s=statistics.median(part["tail"] for part in seconds),
        sent_bytes=int(statistics.median(int(answer.parameters["sent_bytes"]) for answer in answers)),
        agreement=agreement(model, Plan.parse(str(answers[0].parameters["plan"]), model.graph)),
        gave_up=sum("degraded" in answer.parameters for answer in answers),
    )


@functools.cache
def _crops() -> tuple[torch.Tensor, ...]:
    """Forty views of the sample photos: shifted by a few pixels, and mirrored."""
    views = []
    for photo in photos().values():
        for shift in (0, 5, 11, 23):
            moved = photo.roll((shift, shift), dims=(1, 2))
            views += [moved, moved.flip(2)]
    return tuple(view.contiguous() for view in views)


def agreement(model: Model, plan: Plan) -> float:
    """Share of the views that get the label of the unsplit model under this plan's codecs."""
    lossy = {tensor: codec for hop in plan.hops for tensor, codec in hop.items() if not CODECS[codec].lossless}
    if not lossy:
        return 1.0
    head = stage(model, model.graph.inputs, plan.hops[0])
    tail = stage(model, plan.hops[0], model.graph.outputs)
    whole = stage(model, model.graph.inputs, model.graph.outputs)
    same = 0
    for view in _crops():
        crossing = head.run({"image": view})
        for tensor, name in lossy.items():
            value = torch.as_tensor(crossing[tensor])
            dtype = str(value.dtype).removeprefix("torch.")
            crossing[tensor] = CODECS[name].decode(CODECS[name].encode(value), tuple(value.shape), dtype)
        answers = (tail.run(crossing)["output"], whole.run({"image": view})["output"])
        same += len({int(torch.as_tensor(answer).argmax()) for answer in answers}) == 1
    return same / len(_crops())


def encoded_photo_plan(model: Model, profile: Profile, codec: str) -> str:
    """Everything on the server, and the photo sent in an image codec as a user would send it."""
    topology = Topology.chain(["device", "cloud"], ["5Mbps"])
    table = tabulate(model.graph, {"device": profile, "cloud": profile}, topology, codecs={"image": (codec,)})
    tiers = [1] * len(model.graph)
    return str(Plan.priced(model.graph, tiers, table=table, model=model.digest, hosts=("device", "cloud")))


def table_of(ways: Sequence[Way]) -> Table:
    """The ways side by side, a section a rate, the quickest in bold."""
    table = Table("way", "total ms", "head ms", "transfer ms", "tail ms", "KB sent", "same answers")
    for column in table.columns[1:]:
        column.justify = "right"
    for rate in dict.fromkeys(way.rate for way in ways):
        here = [way for way in ways if way.rate == rate]
        best = min(way.total_s for way in here if not way.gave_up)
        table.add_row(f"[bold]link {rate}[/]")
        for way in here:
            if way.gave_up:
                table.add_row(f"  {way.name}: too slow, given up", style="italic")
                continue
            times = (way.total_s, way.head_s, way.transfer_s, way.tail_s)
            table.add_row(
                f"  {way.name}",
                *(f"{seconds * 1e3:.0f}" for seconds in times),
                f"{way.sent_bytes / 1e3:.1f}",
                f"{way.agreement:.0%}",
                style="bold" if way.total_s == best else "",
            )
        table.add_section()
    return table
