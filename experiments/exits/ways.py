"""Every way to run the network with exits that is weighed, on the images to choose by and those to judge by."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
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
from splitnn.planner.constraints import NO_CONSTRAINTS, Constraints
from splitnn.planner.deadlines import every_policy
from splitnn.planner.exits import ask, plan_exits
from splitnn.planner.objective import BYTES, LATENCY, THROUGHPUT
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


@dataclass(frozen=True, eq=False)
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


def planned(subject: Subject, link: str, known: dict[Hashable, Rival]) -> list[Rival]:
    """What the planner chooses from the profile and the link, the plan that the agent would follow first.

    Then of every choice among the exits the best plan for each objective, with and without the codec of fewest bits
    (held-out images say later which of these are accurate enough); for bytes the last exit is in the cloud. ``known``
    keeps what was measured for another link.
    """
    profiles = {"device": subject.profile.scaled(SLOWDOWN, host="device"), "cloud": subject.profile}
    topology = Topology.chain(["device", "cloud"], [link])
    graph = subject.model.graph
    found = [_as_planned(subject, subject.exits, plan_for(subject, profiles, link), known)]
    last = Constraints(pins={graph.producer[subject.exits.exits[-1].output]: "cloud"})
    for exits in every_policy(subject.exits):
        for objective in (LATENCY, THROUGHPUT, BYTES):
            is_complete = exits.exits[-1].name == subject.exits.exits[-1].name
            if objective is BYTES and not is_complete:
                continue
            for tensor_codecs in (TENSOR_CODECS[:1], TENSOR_CODECS):
                plan = ask(
                    graph,
                    profiles,
                    topology,
                    exits=exits,
                    objective=objective,
                    constraints=last if objective is BYTES else NO_CONSTRAINTS,
                    codecs=_usable(subject, tensor_codecs),
                    mode="fast",
                ).plan
                found.append(_as_planned(subject, exits, plan, known))
    return list(dict.fromkeys(found))


def _as_planned(subject: Subject, exits: Exits, plan: Plan, known: dict[Hashable, Rival]) -> Rival:
    codecs = dict(plan.hops[0])
    key = tuple(each.name for each in exits.exits), plan.tiers, tuple(codecs.items())
    if key not in known:
        label = f"planned: {'+'.join(key[0])}, {len(plan.layers[0])} layers here, {codecs}"
        held_out, test = (
            bench.track(label, exits, plan.layers[0], codecs) for bench in (subject.held_out, subject.test)
        )
        known[key] = Rival("planned", held_out, test)
    return known[key]


def plan_for(subject: Subject, profiles: Mapping[str, Profile], link: str) -> Plan:
    """The quickest with the exits as they are and codecs that lose little at this network's cuts."""
    topology = Topology.chain(["device", "cloud"], [link])
    codecs = _usable(subject, TENSOR_CODECS[:1])
    return plan_exits(subject.model.graph, profiles, topology, exits=subject.exits, codecs=codecs, mode="fast")


def _usable(subject: Subject, tensor_codecs: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Codecs of the image, and of what crosses where the device decides an exit."""
    graph = subject.model.graph
    crossing = {
        tensor
        for head in heads(subject)[1:-1]
        for tensor in segments(graph, subject.exits, graph.inputs, layers=set(head)).frontier
    }
    return {**dict.fromkeys(crossing, ("raw", *tensor_codecs)), graph.inputs[0]: IMAGE_CODECS}
