"""What codecs cost in accuracy and in bytes on real data, tensor by tensor. Knows no torch."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from splitnn.cost.exit_drops import ExitDrops
from splitnn.graph.exits import Against, Exits
from splitnn.graph.recipe import NO_DROP, Drop


@dataclass(frozen=True, slots=True)
class Calibrated:
    """One codec on one tensor that crosses alone: what answers it costs, and the bytes of a request."""

    drop: Drop
    median_bytes: int
    p95_bytes: int

    def __post_init__(self) -> None:
        if not 0 <= self.median_bytes <= self.p95_bytes < 2**63:
            raise ValueError(f"calibration: {self.median_bytes} bytes in the middle, {self.p95_bytes} at the 95th")


@dataclass(frozen=True)
class Calibration:
    """Codecs on the tensors of one model, measured on data. What is not in it was not measured.

    ``against`` says what answers were judged by: labels, or the model's own answers when it is not cut. Where the model
    has early exits, ``tensors`` is what its last exit loses, and ``exits`` what every way to ask them does.
    ``answer`` is the output whose answers were compared, None where an older file does not say.
    """

    tensors: Mapping[str, Mapping[str, Calibrated]]  # by tensor and codec
    against: Against
    data: str
    samples: int
    exits: ExitDrops | None = None
    answer: str | None = None

    def __post_init__(self) -> None:
        if self.against not in get_args(Against):
            raise ValueError(f"a calibration is against {' or '.join(get_args(Against))}, not {self.against!r}")
        if self.samples < 1:
            raise ValueError(f"a calibration needs samples, not {self.samples}")

    def to_json(self) -> dict[str, Any]:
        """A JSON object that ``from_json`` reads back to an equal calibration."""
        return {
            "against": self.against,
            "data": self.data,
            "samples": self.samples,
            "tensors": {
                tensor: {codec: asdict(found) for codec, found in codecs.items()}
                for tensor, codecs in self.tensors.items()
            },
            "exits": None if self.exits is None else self.exits.to_json(),
            "answer": self.answer,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Calibration:
        """The calibration that ``to_json`` wrote.

        Raises:
            ValueError: the object is no calibration.
        """
        try:
            return cls(
                tensors={
                    str(tensor): {
                        str(codec): Calibrated(
                            Drop(*(float(found["drop"][name]) for name in ("estimate", "low", "high"))),
                            int(found["median_bytes"]),
                            int(found["p95_bytes"]),
                        )
                        for codec, found in codecs.items()
                    }
                    for tensor, codecs in data["tensors"].items()
                },
                against=data["against"],
                data=str(data["data"]),
                samples=int(data["samples"]),
                exits=None if data.get("exits") is None else ExitDrops.from_json(data["exits"]),  # older files: none
                answer=None if data.get("answer") is None else str(data["answer"]),  # older files: not known
            )
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"no calibration: {error!r}") from error


_Z = 1.96  # of a two-sided interval of 95 %

Counts = TypeVar("Counts", float, NDArray[np.float64])


def paired_interval(lost: Counts, gained: Counts, *, samples: int, design_effect: float = 1.0) -> tuple[Counts, Counts]:
    """The interval of 95 % of the share that is lost net, where so many samples lost their answer and gained one.

    Bonett and Price's for paired shares (one change each way is added), which for agreement, where nothing can be
    gained, is close to Wilson's. Samples of common origin say less than as many independent ones: ``design_effect`` is
    what that multiplies the variance with. Counts are numbers or arrays of them; ends may lie beyond -1 and 1.
    """
    share_lost, share_gained = (lost + 1) / (samples + 2), (gained + 1) / (samples + 2)
    centre = share_lost - share_gained
    half = _Z * (design_effect * (share_lost + share_gained - centre**2) / (samples + 2)) ** 0.5
    return centre - half, centre + half


def paired_drop(lost: float, gained: float, *, samples: int, design_effect: float = 1.0) -> Drop:
    """The mean with its ``paired_interval``, which is made to hold the mean and to lie between -1 and 1."""
    mean = (lost - gained) / samples
    low, high = paired_interval(float(lost), float(gained), samples=samples, design_effect=design_effect)
    return Drop(mean, max(-1.0, min(mean, low)), min(1.0, max(mean, high)))


def policy_drop(exits: Exits, names: Collection[str]) -> Drop:
    """What a model loses on held-out data when only these of its exits are asked, against its last exit alone.

    Where no sample leaves before that one, nothing changes, which needs no proof.

    Raises:
        ValueError: an unknown name, or none.
    """
    known = [each.name for each in exits.exits]
    if not names or set(names) - set(known):
        raise ValueError(f"a policy consists of some of the exits {known}, not {sorted(names)}")
    asked = [at for at, name in enumerate(known) if name in names]
    lost, gained, stays = 0, 0, True
    for tally in exits.tallies:
        leaves = next((at for at in asked if tally.sure[at]), asked[-1])
        stays &= leaves == len(known) - 1
        lost += tally.samples * (tally.right[-1] and not tally.right[leaves])
        gained += tally.samples * (tally.right[leaves] and not tally.right[-1])
    if stays:
        return NO_DROP
    return paired_drop(lost, gained, samples=exits.samples, design_effect=exits.design_effect)


def parse_share(text: str) -> float:
    """``0.5%`` or ``0.005`` as a share, 0.005.

    Raises:
        ValueError: the text is no share from 0 to 1.
    """
    number, percent, rest = text.strip().partition("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = math.nan
    if rest or not 0 <= share <= 1:
        raise ValueError(f"{text!r} is no share of answers; write it such as 0.5% or 0.005")
    return share
