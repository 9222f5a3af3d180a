"""What codecs cost in accuracy and in bytes on real data, tensor by tensor. Knows no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

from splitnn.graph.exits import Against
from splitnn.graph.recipe import Drop


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

    ``against`` says what answers were judged by: labels, or the model's own answers when it is not cut.
    """

    tensors: Mapping[str, Mapping[str, Calibrated]]  # by tensor and codec
    against: Against
    data: str
    samples: int

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
            )
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"no calibration: {error!r}") from error


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
