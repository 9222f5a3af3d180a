"""Accuracy that may be lost, and versions of a model to choose among, as options of a command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from splitnn.cli.goals import Goals
from splitnn.cli.sources import is_preset, open_model, open_profiles
from splitnn.cost.accuracy import parse_share, policy_drop
from splitnn.cost.profile import Profile
from splitnn.errors import InfeasiblePlan
from splitnn.graph.recipe import NO_DROP, Drop

if TYPE_CHECKING:
    from splitnn.graph.exits import Exits
    from splitnn.graph.model import Model


@dataclass(frozen=True)
class Version:
    """A model, or one that was made of it, with its profiles."""

    name: str
    model: Model
    profiles: dict[str, Profile]
    base: Version | None = None  # what it was made of, where that is planned beside it

    @property
    def lost(self) -> float:
        """What the version itself loses at worst, without codecs and exits; 0 for what was made of nothing.

        What it was made of may be a version, too: beside that one, it loses what both do.

        Raises:
            InfeasiblePlan: it was never measured.
        """
        return max(0.0, self._drop.high) + (0.0 if self.base is None else self.base.lost)

    @property
    def likely_lost(self) -> float:
        """The same, as estimated; below 0 where answers became better.

        Raises:
            InfeasiblePlan: it was never measured.
        """
        return self._drop.estimate + (0.0 if self.base is None else self.base.likely_lost)

    @property
    def _drop(self) -> Drop:
        recipe = self.model.recipe
        if recipe is None:
            return NO_DROP
        if recipe.drop is None:
            raise InfeasiblePlan(f"{self.name}: nobody measured what this version loses")
        return recipe.drop


def add_versions(parser: Any) -> None:
    """Add the options that the other functions read."""
    group = parser.add_argument_group("what accuracy may be lost")
    group.add_argument(
        "--max-accuracy-drop", metavar="SHARE",
        help="such as 0.5%%: lossy codecs where `splitnn calibrate` found that they lose no more, by the upper end of "
        "the 95 %% interval; several tensors, exits and a version count together (default: lossless, or what --codecs "
        "names; beside --version what MODEL loses with its own exits, or with --deadline the least of all in time)",
    )  # fmt: skip
    group.add_argument(
        "--version", metavar="FOLDER=FILES", action="append", default=[],
        help="a version of MODEL that `splitnn bottleneck`, `compress` or `exits` made, with its profiles in the order "
        "of the hosts, comma-separated; repeat: the best one is taken",
    )  # fmt: skip


def limit_of(args: argparse.Namespace) -> float | None:
    """The share of answers that may be lost, as far as it was said.

    Raises:
        ValueError: the text is no share.
    """
    return None if args.max_accuracy_drop is None else parse_share(args.max_accuracy_drop)


def limit_among(versions: Sequence[Version], *, goals: Goals) -> float | None:
    """What may be lost where nobody said it and the first one, which the others were made of, is weighed against them.

    That is what it loses as it is: with its exits what they do, without them nothing. None with a budget, such as a
    deadline, where any has exits: then the most accurate that keeps it is wanted, as of one model with exits.

    Raises:
        InfeasiblePlan: what the first one itself loses was never measured.
    """
    if len(versions) < 2:
        return None
    if goals.constraints.unbounded() and any(each.model.exits is not None for each in versions):
        return None
    first = versions[0].model.exits
    return versions[0].lost + (0.0 if first is None else max(0.0, policy_drop(first, names_of(first)).high))


def versions_of(args: argparse.Namespace, first: Version, hosts: Sequence[str]) -> list[Version]:
    """What ``--version`` names, made of the first one.

    Raises:
        OSError, ValueError, SplitnnError: no such model or profile, too few profiles or those of other hosts, or a
            version of another model.
    """
    found = []
    for text in args.version:
        name, _, files = text.partition("=")
        paths = files.split(",")
        if not name or not files or len(paths) != len(hosts):
            raise ValueError(
                f"--version {text}: expected FOLDER=FILE,... with a profile for each of {', '.join(hosts)}"
            )
        version, model = open_model(name), first.model
        base = None if version.recipe is None else version.recipe.base
        is_same = version.digest == model.digest and version.exits != model.exits  # other thresholds make a version
        if base != model.digest and not is_same:
            raise ValueError(
                f"--version {name} was made of {'nothing that it knows' if base is None else base[:12]}, "
                f"not of {args.model} ({model.digest[:12]}): give one that `splitnn compress`, `bottleneck` or "
                f"`exits` made of {args.model}"
            )
        if presets := [path for path in paths if is_preset(path)]:
            raise ValueError(f"--version {text}: {presets[0]} is a preset, not a file that `splitnn profile` wrote")
        profiles = open_profiles(dict(zip(hosts, paths, strict=True)), hosts=hosts)
        for profile in profiles.values():
            profile.check_fits(version.graph, version.digest)
        found.append(Version(name, version, profiles, None if is_same else first))
    return found


def names_of(exits: Exits) -> list[str]:
    """Of a way to ask exits, in order of depth."""
    return [each.name for each in exits.exits]
