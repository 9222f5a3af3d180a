"""One model, ready to be swept: captured, profiled, on disk; and both programs serving it across an emulated link."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

import splitnn
from experiments.bandwidth_sweep.application import save_example
from experiments.testbed import EmulatedLink, Host, Program
from splitnn import zoo
from splitnn.cost.profile import Profile
from splitnn.graph import package
from splitnn.graph.model import Model
from splitnn.runtime.address import parse_address
from splitnn.runtime.handling import with_handling
from splitnn.runtime.stage import stage
from splitnn.transport.codec import CODECS

_LONGEST_REQUEST_S = 120.0


@dataclass(frozen=True)
class Subject:
    """A model with its profile on this machine at full speed, and the requests to send."""

    name: str
    model: Model
    profile: Profile
    folder: Path  # holds the package ``folder/name`` and nothing else
    examples: tuple[Path, ...]
    weights: str  # "real" or "random"
    content: str = "the example that was profiled"  # or the names of the photos in the requests


def prepare(
    name: str, scratch: Path, *, codecs: Sequence[str], profiling_s: float, photos: Sequence[str] = ()
) -> Subject:
    """Capture and measure one model of the zoo. Requests carry the model's own example, or these photos of the zoo.

    Profiled once at full speed by CPU time: hosts with a share of a core take that time divided by their share.
    """
    module, inputs = zoo.load(name)
    model = splitnn.capture(module, inputs)
    folder = scratch / name
    folder.mkdir()
    package.save(model, folder / name)
    measured = splitnn.profile(
        model, host="this machine", codecs={codec: CODECS[codec] for codec in codecs}, budget_s=profiling_s
    )
    found = with_handling(measured)
    requests: list[Mapping[str, Any]] = [model.name_inputs(*inputs)]
    content = Subject.content
    entry = next((entry for entry in zoo.models() if entry.name == name), None)
    if photos and model.graph.inputs == ("image",) and entry is not None:
        views = zoo.photos(entry.side)
        requests = [{"image": torch.from_numpy(views[photo])[None]} for photo in photos]
        content = ", ".join(photos)
    whole = stage(model, model.graph.inputs, model.graph.outputs)
    examples = []
    for number, request in enumerate(requests):
        examples.append(scratch / f"{name}-{number}.safetensors")
        with torch.inference_mode():
            save_example(examples[-1], request, whole.run(request))
    return Subject(name, model, found, folder, tuple(examples), entry.weights if entry else "unknown", content)


def profiles_of(subject: Subject, *, device_share: float, server_share: float) -> Mapping[str, Profile]:
    """By host, each with its share of this machine's core."""
    return {
        "device": subject.profile.scaled(1 / device_share, host="device"),
        "cloud": subject.profile.scaled(1 / server_share, host="cloud"),
    }


class Deployment:
    """The cloud server and the device agent, each with its share of a core; a context manager.

    Without control groups the agent scales time by sleeping, and the server, which can't, runs at full speed.
    ``believed`` is the link that the agent starts from, as text.
    """

    def __init__(
        self,
        subject: Subject,
        link: EmulatedLink,
        *,
        device_share: float,
        server_share: float,
        codecs: Sequence[str],
        believed: str,
    ) -> None:
        with contextlib.ExitStack() as stack:
            cloud = stack.enter_context(Host("cloud", link=link, side="server", cpu_share=server_share))
            device = stack.enter_context(Host("device", link=link, side="device", cpu_share=device_share))
            self.method = f"device {device.method}; server " + (cloud.method if cloud.is_limited else "at full speed")
            self.shares: dict[str, str] = {  # of a core, as they came out
                "device_share": f"{device_share:g}" + " (scaled)" * (device.slowdown != 1),
                "server_share": f"{server_share:g}" if cloud.is_limited else "full speed",
            }
            self.profiles = profiles_of(
                subject, device_share=device_share, server_share=server_share if cloud.is_limited else 1.0
            )
            files = {name: subject.folder.parent / f"{subject.name}-{name}.json" for name in self.profiles}
            for name, found in self.profiles.items():
                # A scaled device multiplies its own profile by the slowdown that it is told.
                written = subject.profile if name == "device" and device.slowdown != 1 else found
                files[name].write_text(json.dumps(written.to_json()))
            # Loading torch on a tenth of a core takes half a minute, which nobody wants measured.
            with cloud.full_speed(), device.full_speed():
                server = Program(
                    cloud, "cloud_server", "--models", str(subject.folder), "--listen", f"{link.server_host}:0",
                    "--insecure", "--profile", str(files["cloud"]), "--profiling", "never", "--log-level", "warning",
                )  # fmt: skip
                _, port = parse_address(server.address)
                stack.callback(link.release, port)
                agent = Program(
                    device, "device_agent", "--server", link.address_of(port),
                    "--model", str(subject.folder / subject.name), "--listen", "127.0.0.1:0",
                    "--profile", str(files["device"]), "--slowdown", f"{device.slowdown:g}",
                    "--codecs", ",".join(codecs), "--link", believed, "--deadline-s", f"{_LONGEST_REQUEST_S:g}",
                    "--log-level", "warning",
                )  # fmt: skip
            self.agent = agent.address
            self.programs: tuple[Program, Program] = (server, agent)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
