"""A real network on real photos, split between a device process and a server process over a slow link.

``make demo`` runs it. The link's rate changes while photos are classified, and the cut moves by itself. It ends with a
table of every way to answer and a picture, demo.png.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import logging
import os
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

import splitnn
from experiments.demo.picture import Answered, Where, draw
from experiments.demo.ways import MODEL, Way, ask, encoded_photo_plan, measure, parts, photos, table_of
from experiments.testbed import EmulatedLink, Host, Program, proxied_link, shape_of
from splitnn import zoo
from splitnn.cost.profile import Profile
from splitnn.graph import package
from splitnn.graph.allocator import keep_freed_memory
from splitnn.graph.model import Model
from splitnn.runtime.address import parse_address
from splitnn.transport.base import Answer
from splitnn.transport.codec import CODECS
from splitnn.transport.open_inference import GrpcTransport

RATES = ("40Mbps", "5Mbps", "0.5Mbps")
ROUND_TRIP = "20ms"
SLOWDOWN = 8.0
CODEC_NAMES = ("raw", "fp16", "int8", "int8+zstd")
JPEG = "jpeg90"

console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 0 when every photo was answered and the cut moved."""
    parser = argparse.ArgumentParser(prog="python -m experiments.demo", description=__doc__)
    parser.add_argument("--output", metavar="PNG", type=Path, default=Path("demo.png"), help="the picture")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each rate of the link (default 10)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the table as JSON too")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    keep_freed_memory()
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
    profile = _profile(model)
    (scratch / "profile.json").write_text(json.dumps(profile.to_json()))
    with _working("starting cloud_server and device_agent"):
        agent_address, link = _start(scratch, stack)
    agent = GrpcTransport(agent_address)
    try:
        answers = await _follow(agent, link, options.seconds)
        jpeg = encoded_photo_plan(model, profile, JPEG)
        ways: list[Way] = []
        with _working("measuring every way at every rate, for the table"):
            for rate in RATES:
                _set_rate(link, rate)
                plans = {"all on the device": "device", "raw photo to the server": "cloud", "JPEG to the server": jpeg}
                plans["best split"] = _best_split(model, profile, rate)
                ways += await measure(agent, model, rate, plans)
    finally:
        await agent.close()
    console.print(table_of(ways))
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


def _profile(model: Model) -> Profile:
    """Measure once: device and server are one machine, and the agent scales by its slowdown."""
    columns = (TextColumn("  profiling every layer and codec"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("profile", total=None)

        def advance(share: float, what: str) -> None:
            progress.update(task, completed=share, total=1.0)

        codecs = {name: CODECS[name] for name in (*CODEC_NAMES, JPEG)}
        profile = splitnn.profile(model, host="this machine", codecs=codecs, progress=advance)
    error = "" if profile.error is None else f", predictions of unseen cuts {profile.error:.1%} off"
    console.print(f"  profiled: {profile.whole.cpu_s * 1e3:.1f} ms for the whole network{error}")
    return profile


def _start(scratch: Path, stack: ExitStack) -> tuple[str, EmulatedLink]:
    """Both programs, joined by a slow link: where the agent listens, and the link."""
    profile = str(scratch / "profile.json")
    cloud = stack.enter_context(Host("cloud"))
    device = stack.enter_context(Host("device"))
    server = Program(cloud, "cloud_server", "--models", str(scratch), "--listen", "127.0.0.1:0", "--profile", profile)
    link = stack.enter_context(proxied_link(shape_of(f"{RATES[0]}/{ROUND_TRIP}")))
    agent = Program(
        device, "device_agent", "--server", link.address_of(parse_address(server.address)[1]),
        "--model", str(scratch / MODEL), "--listen", "127.0.0.1:0",
        "--profile", profile, "--slowdown", str(SLOWDOWN), "--codecs", ",".join(CODEC_NAMES),
    )  # fmt: skip
    for program in (server, agent):
        console.print(f"  {program.lines[-1]}")
    return agent.address, link


def _set_rate(link: EmulatedLink, rate: str) -> None:
    shape = shape_of(f"{rate}/{ROUND_TRIP}")
    link.set(up_bps=shape.up_bps, down_bps=shape.down_bps, rtt_s=shape.rtt_s)


async def _follow(agent: GrpcTransport, link: EmulatedLink, seconds: float) -> list[Answered]:
    """Classify photo after photo while the link changes; print each answer."""
    answers: list[Answered] = []
    views = photos()
    started = time.monotonic()
    for rate in (*RATES, RATES[1]):
        _set_rate(link, rate)
        console.print(f"\n[bold]the link is now {rate}[/], {ROUND_TRIP} round trip")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            name = list(views)[len(answers) % len(views)]
            at_s = time.monotonic() - started
            answer = await ask(agent, views[name])
            answered = _answered(answer, name, rate, at_s)
            _say(answered, answer, answers[-1] if answers else None)
            answers.append(answered)
    return answers


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


def _say(now: Answered, answer: Answer, before: Answered | None) -> None:
    """One line a photo: the answer, and the measured time of each part beside the predicted one."""
    if before is None or before.plan.split("| model")[0] != now.plan.split("| model")[0]:
        console.print(f"  [bold]plan[/]  {now.plan}", soft_wrap=True)
    cells = []
    for part, seconds in parts(answer).items():
        predicted = float(answer.parameters[f"predicted_{part}_s"])
        cells.append(f"{part} {seconds * 1e3:4.0f} ms ({predicted * 1e3:.0f})")
    degraded = answer.parameters.get("degraded")
    console.print(
        f"  {now.photo:<11} {now.label:<22} {now.confidence:4.0%}   {now.total_s * 1e3:5.0f} ms   " + "   ".join(cells),
        f"[yellow]finished on the device: {degraded}[/]" if degraded else "",
        soft_wrap=True,
    )


def _best_split(model: Model, profile: Profile, rate: str) -> str:
    """The quickest plan at this rate that computes something on both sides."""
    topology = splitnn.Topology.chain(["device", "cloud"], [f"{rate}/{ROUND_TRIP}"])
    profiles = {"device": profile.scaled(SLOWDOWN, host="device"), "cloud": profile.scaled(1, host="cloud")}
    weighty = [layer.name for layer in model.graph.layers if layer.weights]
    pins = {weighty[0]: "device", weighty[-1]: "cloud"}
    return str(splitnn.plan(model.graph, profiles, topology, codecs=CODEC_NAMES, pins=pins))


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
