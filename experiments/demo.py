"""A real network on real photos, split between a device process and a server process over a slow link.

``make demo`` runs it. The link's rate changes while photos are classified, and the cut moves by itself. It ends with a
table of every way to answer and a picture, demo.png.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import functools
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: three processes share the machine's cores

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

import splitnn
from experiments.demo_picture import Answered, Way, Where, draw
from experiments.hosts import Host
from experiments.programs import Program
from experiments.proxy_process import ProxyProcess
from splitnn import zoo
from splitnn.cost.estimate import tabulate
from splitnn.graph import package
from splitnn.graph.model import Model
from splitnn.planner.plan import Plan
from splitnn.runtime.stage import stage
from splitnn.transport.base import Answer, Parameter, Request
from splitnn.transport.codec import CODECS
from splitnn.transport.open_inference import GrpcTransport

MODEL = "efficientnet_lite0"
RATES = ("40Mbps", "5Mbps", "0.3Mbps")
ROUND_TRIP = "20ms"
SLOWDOWN = 8.0
CODEC_NAMES = ("raw", "fp16", "int8", "int8+zstd")
JPEG = "jpeg90"
TIMEOUT_S = 20.0

console = Console(highlight=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 0 when every photo was answered and the cut moved."""
    parser = argparse.ArgumentParser(prog="python -m experiments.demo", description=__doc__)
    parser.add_argument("--output", metavar="PNG", type=Path, default=Path("demo.png"), help="the picture")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each rate of the link (default 10)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the table as JSON too")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="splitnn-demo-") as scratch, ExitStack() as stack:
        return asyncio.run(_demo(options, Path(scratch), stack))


async def _demo(options: argparse.Namespace, scratch: Path, stack: ExitStack) -> int:
    console.print(
        f"[bold]splitnn demo[/]: {MODEL} (ImageNet weights) on real photos. The device is this machine made "
        f"{SLOWDOWN:g} times slower (emulated by sleeping), the server is this machine; the link between them is "
        f"emulated too: {', '.join(RATES)} at {ROUND_TRIP} round trip."
    )
    with _working("capturing the network"):
        model = splitnn.capture(*zoo.load(MODEL))
        package.save(model, scratch / MODEL)
    profile = _profile(model, scratch)
    with _working("starting cloud_server and device_agent"):
        agent_address, link = _start(scratch, profile, stack)
    agent = GrpcTransport(agent_address)
    try:
        photos = _photos()
        answers = await _follow(agent, link, photos, options.seconds)
        jpeg = _jpeg_plan(model, profile)
        ways: list[Way] = []
        with _working("measuring every way at every rate, for the table"):
            for rate in RATES:
                link.set(rate=rate, rtt=ROUND_TRIP)
                plans = {"all on the device": "device", "raw photo to the server": "cloud", "JPEG to the server": jpeg}
                if split := _usual_split(answers, rate):
                    plans["best split"] = split
                ways += await _measured(agent, model, rate, plans, photos)
    finally:
        await agent.close()
    _print_table(ways)
    draw(
        answers,
        ways,
        options.output,
        title=f"EfficientNet-Lite0 on a device {SLOWDOWN:g} times slower than the server (emulated), "
        f"{ROUND_TRIP} round trip",
    )
    console.print(f"picture: {options.output.resolve()}")
    if options.json is not None:
        options.json.write_text(json.dumps({"ways": [_row(way) for way in ways]}, indent=1))
    return _judge(answers)


@contextmanager
def _working(what: str) -> Iterator[None]:
    """A line that says what is going on, with the seconds that it takes."""
    columns = (SpinnerColumn(), TextColumn(what), TimeElapsedColumn())
    started = time.monotonic()
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(what, total=None)
        yield
    console.print(f"  {what}: {time.monotonic() - started:.1f} s")


def _profile(model: Model, scratch: Path) -> Path:
    """Measure once: device and server are one machine, and the agent scales by its slowdown."""
    columns = (TextColumn("  profiling every layer and codec"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("profile", total=None)

        def advance(share: float, what: str) -> None:
            progress.update(task, completed=share, total=1.0)

        codecs = {name: CODECS[name] for name in (*CODEC_NAMES, JPEG)}
        profile = splitnn.profile(model, host="this machine", codecs=codecs, progress=advance)
    path = scratch / "profile.json"
    path.write_text(json.dumps(profile.to_json()))
    error = "" if profile.error is None else f", predictions of unseen cuts {profile.error:.1%} off"
    console.print(f"  profiled: {profile.whole.cpu_s * 1e3:.1f} ms for the whole network{error}")
    return path


def _start(scratch: Path, profile: Path, stack: ExitStack) -> tuple[str, ProxyProcess]:
    """Both programs, joined by a slow link: where the agent listens, and the link."""
    cloud = stack.enter_context(Host("cloud"))
    device = stack.enter_context(Host("device"))
    server = Program(
        cloud, "cloud_server", "--models", str(scratch), "--listen", "127.0.0.1:0", "--profile", str(profile)
    )
    link = stack.enter_context(ProxyProcess(server.address, link=f"{RATES[0]}/{ROUND_TRIP}"))
    agent = Program(
        device, "device_agent", "--server", link.address, "--model", str(scratch / MODEL), "--listen", "127.0.0.1:0",
        "--profile", str(profile), "--slowdown", str(SLOWDOWN), "--codecs", ",".join(CODEC_NAMES),
    )  # fmt: skip
    for program in (server, agent):
        console.print(f"  {program.lines[-1]}")
    return agent.address, link


def _photos() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(photo)[None] for name, photo in zoo.photos(224).items()}  # (1, 224, 224, 3)


async def _follow(
    agent: GrpcTransport, link: ProxyProcess, photos: dict[str, torch.Tensor], seconds: float
) -> list[Answered]:
    """Classify photo after photo while the link changes; print each answer."""
    answers: list[Answered] = []
    started = time.monotonic()
    for rate in (*RATES, RATES[1]):
        link.set(rate=rate, rtt=ROUND_TRIP)
        console.print(f"\n[bold]the link is now {rate}[/], {ROUND_TRIP} round trip")
        until = time.monotonic() + seconds
        names = list(photos)
        while time.monotonic() < until:
            name = names[len(answers) % len(names)]
            at_s = time.monotonic() - started
            answer = await _ask(agent, photos[name])
            answered = _answered(answer, name, rate, at_s)
            _say(answered, answer, answers[-1] if answers else None)
            answers.append(answered)
    return answers


async def _ask(agent: GrpcTransport, photo: torch.Tensor, plan: str = "") -> Answer:
    """What any application does: send the photo, take the answer. ``plan`` asks for one way, for the table."""
    parameters: dict[str, Parameter] = {"plan": plan} if plan else {}
    request = Request(MODEL, {"image": photo}, deadline_s=time.monotonic() + TIMEOUT_S, parameters=parameters)
    return await agent.infer(request)


def _answered(answer: Answer, photo: str, rate: str, at_s: float) -> Answered:
    logits = torch.as_tensor(answer.tensors["output"])
    confidence, place = logits.softmax(-1).max(-1)
    plan = str(answer.parameters["plan"])
    where: Where = "split"
    if float(answer.parameters["head_s"]) == 0:
        where = "cloud"
    elif int(answer.parameters["sent_bytes"]) == 0:
        where = "device"
    return Answered(
        at_s=at_s,
        rate=rate,
        photo=photo,
        label=zoo.labels()[int(place)],
        confidence=float(confidence),
        where=where,
        plan=plan,
        total_s=float(answer.parameters["total_s"]),
    )


def _parts(answer: Answer) -> dict[str, float]:
    """Seconds of the three parts that every way has."""
    numbers = answer.parameters
    return {
        "head": float(numbers["head_s"]) + float(numbers["queue_s"]),
        "transfer": float(numbers["transfer_s"]),
        "tail": float(numbers["tail_s"]) + float(numbers["cloud_queue_s"]) + float(numbers["local_tail_s"]),
    }


def _say(now: Answered, answer: Answer, before: Answered | None) -> None:
    """One line a photo: the answer, and the measured time of each part beside the predicted one."""
    if before is None or before.plan.split("| model")[0] != now.plan.split("| model")[0]:
        console.print(f"  [bold]plan[/]  {now.plan}", soft_wrap=True)
    cells = []
    for part, seconds in _parts(answer).items():
        predicted = float(answer.parameters[f"predicted_{part}_s"])
        cells.append(f"{part} {seconds * 1e3:4.0f} ms ({predicted * 1e3:.0f})")
    degraded = answer.parameters.get("degraded")
    console.print(
        f"  {now.photo:<11} {now.label:<22} {now.confidence:4.0%}   {now.total_s * 1e3:5.0f} ms   " + "   ".join(cells),
        f"[yellow]finished on the device: {degraded}[/]" if degraded else "",
        soft_wrap=True,
    )


def _usual_split(answers: Sequence[Answered], rate: str) -> str | None:
    """The split that answered most photos at this rate, or at any; None when nothing was ever split."""
    splits = [a for a in answers if a.where == "split"]
    here = [a.plan for a in splits if a.rate == rate] or [a.plan for a in splits]
    return statistics.mode(here) if here else None


async def _measured(
    agent: GrpcTransport, model: Model, rate: str, plans: dict[str, str], photos: dict[str, torch.Tensor]
) -> list[Way]:
    """Medians of every way at this rate, all in turn so that noise meets them alike."""
    found: dict[str, list[Answer]] = {name: [] for name in plans}
    for photo in (next(iter(photos.values())), *photos.values()):  # the first one warms the link and the stages
        for name, plan in plans.items():
            found[name].append(await _ask(agent, photo, plan))
    ways = []
    for name, answers in found.items():
        counted = answers[1:]
        parts = [_parts(answer) for answer in counted]
        ways.append(
            Way(
                rate=rate,
                name=name,
                **{f"{part}_s": statistics.median(p[part] for p in parts) for part in ("head", "transfer", "tail")},
                sent_bytes=int(statistics.median(int(answer.parameters["sent_bytes"]) for answer in counted)),
                agreement=_agreement(model, Plan.parse(str(counted[0].parameters["plan"]), model.graph)),
            )
        )
    return ways


@functools.cache
def _crops() -> tuple[torch.Tensor, ...]:
    """Forty views of the sample photos: shifted by a few pixels, and mirrored."""
    views = []
    for photo in _photos().values():
        for shift in (0, 5, 11, 23):
            moved = photo.roll((shift, shift), dims=(1, 2))
            views += [moved, moved.flip(2)]
    return tuple(view.contiguous() for view in views)


def _agreement(model: Model, plan: Plan) -> float:
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


def _jpeg_plan(model: Model, profile: Path) -> str:
    """All on the server, the photo sent as a user would send it."""
    here = splitnn.Profile.from_json(json.loads(profile.read_text()))
    topology = splitnn.Topology.chain(["device", "cloud"], [f"{RATES[1]}/{ROUND_TRIP}"])
    table = tabulate(model.graph, {"device": here, "cloud": here}, topology, codecs={"image": (JPEG,)})
    tiers = [1] * len(model.graph)
    return str(Plan.priced(model.graph, tiers, table=table, model=model.digest, hosts=("device", "cloud")))


def _print_table(ways: Sequence[Way]) -> None:
    table = Table("link", "way", "total ms", "head ms", "transfer ms", "tail ms", "KB sent", "same answers")
    for column in table.columns[2:]:
        column.justify = "right"
    for rate in dict.fromkeys(way.rate for way in ways):
        here = [way for way in ways if way.rate == rate]
        best = min(way.total_s for way in here)
        for way in here:
            table.add_row(
                way.rate, way.name, *(f"{s * 1e3:.0f}" for s in (way.total_s, way.head_s, way.transfer_s, way.tail_s)),
                f"{way.sent_bytes / 1e3:.1f}", f"{way.agreement:.0%}", style="bold" if way.total_s == best else "",
            )  # fmt: skip
        table.add_section()
    console.print(table)


def _row(way: Way) -> dict[str, Any]:
    return dataclasses.asdict(way) | {"total_s": way.total_s}


def _judge(answers: Sequence[Answered]) -> int:
    """What a person should take away; 1 when the cut never moved."""
    used = {where: sum(a.where == where for a in answers) for where in ("cloud", "split", "device")}
    console.print(
        f"{len(answers)} photos answered, none lost: {used['cloud']} on the server, {used['split']} split, "
        f"{used['device']} on the device."
    )
    if len({a.plan.split("| model")[0] for a in answers}) < 2:
        console.print("[red]the cut did not move[/]")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
