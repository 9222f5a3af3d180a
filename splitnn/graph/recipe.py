"""How a version of a model was made from another one, and what that did to its answers on held-out data.

A note beside the model, not part of its digest. Knows no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from splitnn.graph.exits import Against

Setting = str | int | float


@dataclass(frozen=True, slots=True)
class Drop:
    """How much accuracy (or agreement) something costs: an estimate, and the 95 % interval that it lies in.

    Shares of all answers, so 0.005 is half a point. Below 0 answers became better.
    """

    estimate: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not (-1 <= self.low <= self.estimate <= self.high <= 1):
            raise ValueError(f"a drop lies within its interval, between -1 and 1: {self}")

    def __str__(self) -> str:
        return f"{self.estimate:.2%} ({self.low:.2%} to {self.high:.2%})"


NO_DROP = Drop(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Recipe:
    """What made a version, and how far its answers are from those of what it was made from.

    ``drop`` is None where nothing was measured. ``settings`` suffice to make it again; ``figures`` are what was
    measured beside the drop (bytes, seconds), their units in their names.
    """

    method: str
    base: str  # digest of the model that it was made from
    settings: Mapping[str, Setting] = field(default_factory=dict)
    drop: Drop | None = None
    against: Against = "model"  # the labels, or the answers of the model that it was made from
    data: str = ""  # the held-out data, and how many samples of it
    samples: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.against not in get_args(Against):
            raise ValueError(f"a version is judged against {' or '.join(get_args(Against))}, not {self.against!r}")
        if bad := [name for name, value in self.figures.items() if not math.isfinite(value)]:
            raise ValueError(f"a recipe's figures are finite numbers; {bad} are not")

    def __str__(self) -> str:
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        made = f"{self.method} of {self.base[:12]}" + (f" ({settings})" if settings else "")
        if self.drop is None:
            return f"{made}; its accuracy was not measured"
        what = "accuracy" if self.against == "labels" else "agreement"
        figures = "".join(f"; {name} {value:g}" for name, value in self.figures.items())
        return f"{made}; {what} lost {self.drop} on {self.samples} samples of {self.data}{figures}"

    def to_json(self) -> dict[str, Any]:
        """A JSON object that ``from_json`` reads back to an equal recipe."""
        return {"format": "splitnn-recipe-1", **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recipe:
        """The recipe that ``to_json`` wrote.

        Raises:
            ValueError: the object is not such a recipe.
        """
        try:
            if data["format"] != "splitnn-recipe-1":
                raise ValueError(f"not a recipe: format {data['format']!r}")
            drop = data["drop"]
            settings = {str(name): value for name, value in data["settings"].items()}
            if bad := [name for name, value in settings.items() if not isinstance(value, (str, int, float))]:
                raise ValueError(f"not a recipe: the settings {bad} are neither text nor numbers")
            return cls(
                method=str(data["method"]),
                base=str(data["base"]),
                settings=settings,
                drop=None if drop is None else Drop(*(float(drop[name]) for name in ("estimate", "low", "high"))),
                against=data["against"],
                data=str(data["data"]),
                samples=int(data["samples"]),
                figures={str(name): float(value) for name, value in data["figures"].items()},
            )
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"not a recipe: {error!r}") from error
