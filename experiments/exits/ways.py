"""Every way to run the network with exits that is weighed, on the images to choose by and those to judge by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from experiments.exits.measure import Bench, fixed_costs
from experiments.exits.replay import Fixed, Track, global_threshold
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile
from splitnn.cost.profiler import profile
from splitnn.graph.exits import Exits
from splitnn.graph.model import Model
from splitnn.graph.segments import segments
from splitnn.planner.exits import plan_exits
from splitnn.planner.plan import Plan
from splitnn.runtime.handling import with_handling
from splitnn.transport.codec import CODECS
from splitnn.zoo.datasets import fashion_mnist
from splitnn.zoo.fashion import sample_images
from splitnn.zoo.sources import open_model

MODEL = "fashion_exits"
SLOWDOWN = 10.0
DROP = 0.002  # on held-out images, so that others lose no more than 0.003
IMAGE_CODECS, TENSOR_CODECS, SPINN_CODEC = ("raw", "zstd"), ("int8", "int4r"), "int8+zstd"
FILES = ("PNG", "JPEG")
KINDS = ("ours", "planned", "no exits", "edgent", "spinn", "cascade")
HELD_OUT = 6_000  # the last of the training images, which the network was not trained on


@dataclass(frozen=True)
class Rival:
    """One way: what it does on held-out images, by which it is chosen, and on test images, by which it is judged."""

    kind: str
    held_out: Track
    test: Track


@dataclass(frozen=True)
class Subject:
    """The network, its policy, images of both kinds, and what its requests cost."""

    model: Model
    exits: Exits
    held_out: Bench
    test: Bench
    fixed: Fixed
    profile: Profile
    data: str


def prepare() -> Subject:
    """Load and measure."""
    model = open_model(MODEL)
    exits = model.exits
    if exits is None:
        raise RuntimeError(f"the zoo's {MODEL} has come without its exits")
    try:
        images, labels = fashion_mnist("test")
        train, train_labels = fashion_mnist("train")
        choosing = Bench(model, train[-HELD_OUT:, ..., None], train_labels[-HELD_OUT:], slowdown=SLOWDOWN)
        judging = Bench(model, images[..., None], labels, slowdown=SLOWDOWN)
        data = f"{len(images)} test images of Fashion-MNIST, chosen by {HELD_OUT} held-out training images"
    except FileNotFoundError as error:
        images, labels = sample_images()
        choosing = Bench(model, images[::2], labels[::2], slowdown=SLOWDOWN)
        judging = Bench(model, images[1::2], labels[1::2], slowdown=SLOWDOWN)
        data = f"{len(judging)} of the shipped test images, chosen by the {len(choosing)} others ({error})"
    codecs = {name: CODECS[name] for name in (*IMAGE_CODECS, *TENSOR_CODECS)}
    measured = with_handling(profile(model, host="cloud", codecs=codecs, budget_s=3.0))
    return Subject(model, exits, choosing, judging, fixed_costs(model, measured, slowdown=SLOWDOWN), measured, data)


def ways(subject: Subject) -> Iterator[Rival]:
    """Every way of every kind but the planner's, on both sets of images."""
    names = [each.name for each in subject.exits.exits]
    last = names[-1]
    policies = [subject.exits.only(*some) for count in range(1, len(names) + 1) for some in combinations(names, count)]
    for exits in policies:
        kept = [each.name for each in exits.exits]
        for depth, device in enumerate(heads(subject)):
            for codec in codecs_of(subject, device):
                label = f"{'+'.join(kept)} cut {depth} {codec}"
                rival = both(subject, "ours", label, exits, device, codec)
                yield rival
                if len(kept) > 1:
                    yield from cheaper(rival)
                if kept == [last]:
                    yield replace(rival, kind="no exits")
                if len(kept) == 1 and codec == "raw":
                    yield replace(rival, kind="edgent")
    for small in names[:-1]:
        for codec in IMAGE_CODECS[1:]:
            yield from cheaper(both_cascaded(subject, "ours", small=small, form=codec))
    for form in FILES:
        alone = both_cascaded(subject, "no exits", small=names[0], form=form)
        yield Rival("no exits", unused(alone.held_out), unused(alone.test))
        for small in names[:-1]:
            yield from cheaper(both_cascaded(subject, "cascade", small=small, form=form))
    for depth, device in enumerate(heads(subject)):
        codec = SPINN_CODEC if depth else "raw"
        rival = both(subject, "spinn", f"one threshold, cut {depth} {codec}", subject.exits, device, codec)
        yield from cheaper(rival)


def heads(subject: Subject) -> list[list[str]]:
    """The layers on the device when it decides the first 0, 1, 2 ... exits; all of them at the end."""
    graph = subject.model.graph
    found: list[list[str]] = [[]]
    for count in range(1, len(subject.exits.exits) + 1):
        wanted = [each.output for each in subject.exits.exits[:count]]
        found.append([layer.name for layer in graph.between(graph.inputs, wanted)])
    return found


def codecs_of(subject: Subject, device: Sequence[str]) -> tuple[str, ...]:
    """What may be tried for what crosses behind these layers."""
    if not device:
        return IMAGE_CODECS
    own = segments(subject.model.graph, subject.exits, subject.model.graph.inputs, layers=set(device))
    return ("raw", *TENSOR_CODECS) if own.frontier else ("raw",)


def both(subject: Subject, kind: str, name: str, exits: Exits, device: Sequence[str], codec: str) -> Rival:
    found = []
    for bench in (subject.held_out, subject.test):
        crossing = segments(subject.model.graph, exits, [bench.input], layers=set(device)).frontier
        found.append(bench.track(name, exits, device, dict.fromkeys(crossing, codec)))
    return Rival(kind, found[0], found[1])


def both_cascaded(subject: Subject, kind: str, *, small: str, form: str) -> Rival:
    name = f"{small}, else {form}"
    found = [bench.cascaded(name, subject.exits, small=small, form=form) for bench in (subject.held_out, subject.test)]
    return Rival(kind, found[0], found[1])


def unused(track: Track) -> Track:
    """A cascade without its small model: every image goes to the cloud as a file."""
    return replace(
        track,
        name=f"all {track.name.partition('else ')[2]} to the cloud",
        thresholds=(0.0,),
        on_device=0,
        confidences=track.confidences[1:],
        right=track.right[1:],
        device_s=(),
        send_s=track.send_s - track.device_s[0],
        runs_on_device=False,
    )


def cheaper(rival: Rival) -> Iterator[Rival]:
    """With one threshold for all early exits, the lowest that held-out images allow; SPINN's and a cascade's."""
    track = rival.held_out
    threshold = global_threshold(track.confidences, track.right, on=len(track.thresholds) - 1, drop=DROP)
    limits = (*([threshold] * (len(track.thresholds) - 1)), 0.0)
    yield Rival(rival.kind, replace(track, thresholds=limits), replace(rival.test, thresholds=limits))


def planned(subject: Subject, link: str) -> Rival:
    """The planner's choice for the mean latency, from the profile and the link."""
    profiles = {"device": subject.profile.scaled(SLOWDOWN, host="device"), "cloud": subject.profile}
    plan = plan_for(subject, profiles, link)
    codecs = dict(plan.hops[0])
    found = [
        bench.track(f"planned: {len(plan.layers[0])} layers here, {codecs}", subject.exits, plan.layers[0], codecs)
        for bench in (subject.held_out, subject.test)
    ]
    return Rival("planned", found[0], found[1])


def plan_for(subject: Subject, profiles: Mapping[str, Profile], link: str) -> Plan:
    """With codecs that lose little at this network's cuts."""
    graph = subject.model.graph
    crossing = {
        tensor
        for head in heads(subject)[1:-1]
        for tensor in segments(graph, subject.exits, graph.inputs, layers=set(head)).frontier
    }
    codecs = {**dict.fromkeys(crossing, ("raw", "int8")), graph.inputs[0]: IMAGE_CODECS}
    topology = Topology.chain(["device", "cloud"], [link])
    return plan_exits(graph, profiles, topology, exits=subject.exits, codecs=codecs, mode="fast")
