"""What codecs cost a model with early exits, for every way to ask them. Knows no torch.

A codec may cost an early exit more than the last one, and it moves confidences, so that samples leave elsewhere. So it
is measured for each choice among the exits, each exit alone among them, with the thresholds that the model has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from splitnn.graph.exits import Exit, Exits
from splitnn.graph.recipe import Drop

Asked = tuple[str, ...]
"""The names of the exits that are asked, in order of depth; the last of them answers always."""

MOST_ASKED = 63
"""Ways to ask the exits that one table holds: all of six exits."""


@dataclass(frozen=True)
class ExitDrops:
    """By tensor, codec and exits asked: answers lost by that codec on that tensor alone. What is absent is unknown.

    Raises:
        ValueError: no exits, or a way to ask them that there is not.
    """

    exits: tuple[Exit, ...]  # as they were when it was measured: other thresholds let other samples leave
    drops: Mapping[str, Mapping[str, Mapping[Asked, Drop]]]

    def __post_init__(self) -> None:
        place = {each.name: at for at, each in enumerate(self.exits)}
        if not place or len(place) < len(self.exits):
            raise ValueError(f"drops of exits are of some exits, each with a name of its own, not {list(place)}")
        for tensor, codecs in self.drops.items():
            for codec, found in codecs.items():
                if len(found) > MOST_ASKED:
                    raise ValueError(f"{len(found)} drops of {codec} on {tensor!r}, at most {MOST_ASKED}")
                for asked in found:
                    places = [place.get(name, -1) for name in asked]
                    if not places or -1 in places or places != sorted(set(places)):
                        raise ValueError(f"{codec} on {tensor!r}: {list(asked)} are not exits in order of depth")

    def of(self, policy: Exits) -> dict[tuple[str, str], Drop]:
        """By tensor and codec what this policy loses; nothing where it was not measured with these exits."""
        asked = tuple(each.name for each in policy.exits)
        if not self._knows(policy):
            return {}
        return {
            (tensor, codec): found[asked]
            for tensor, codecs in self.drops.items()
            for codec, found in codecs.items()
            if asked in found
        }

    def _knows(self, policy: Exits) -> bool:
        known = {each.name: each for each in self.exits}
        *early, last = policy.exits
        end = known.get(last.name)  # which answers always, whatever its threshold was among others
        return all(known.get(each.name) == each for each in early) and end is not None and end.output == last.output

    def to_json(self) -> dict[str, Any]:
        """A JSON object that ``from_json`` reads back to equal drops."""
        return {
            "exits": [asdict(each) for each in self.exits],
            "drops": {
                tensor: {
                    codec: {",".join(asked): [drop.estimate, drop.low, drop.high] for asked, drop in found.items()}
                    for codec, found in codecs.items()
                }
                for tensor, codecs in self.drops.items()
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ExitDrops:
        """The drops that ``to_json`` wrote.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: the object is no such thing.
        """
        return cls(
            exits=tuple(
                Exit(str(e["name"]), str(e["output"]), float(e["temperature"]), float(e["threshold"]))
                for e in data["exits"]
            ),
            drops={
                str(tensor): {
                    str(codec): {tuple(asked.split(",")): _drop(ends) for asked, ends in found.items()}
                    for codec, found in codecs.items()
                }
                for tensor, codecs in data["drops"].items()
            },
        )


def _drop(ends: Iterable[Any]) -> Drop:
    estimate, low, high = ends
    return Drop(float(estimate), float(low), float(high))
