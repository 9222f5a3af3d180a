"""What a program in eight bits calls the parts of a weight, and of a tensor on a grid.

One module writes such names and others find their way back by them; a suffix that only one of them knew would not be
found, silently. Weights of packages are called so, too.
"""

from __future__ import annotations

from dataclasses import dataclass

_RESTORED, _UNROUNDED, _ON_GRID, _CORRECTED = ".restored", ".raw", ".grid", ".corrected"


@dataclass(frozen=True, slots=True)
class Int8Weight:
    """The names of what replaces a weight: two stored tensors, and two calls that make floats of them."""

    weight: str  # what the model in floats calls it

    @property
    def steps(self) -> str:
        """Stored: whole numbers."""
        return f"{self.weight}.int8"

    @property
    def scale(self) -> str:
        """Stored: what they are multiplied by."""
        return f"{self.weight}.scale"

    @property
    def floats(self) -> str:
        """The first call: the steps as floats."""
        return f"{self.weight}.float"

    @property
    def restored(self) -> str:
        """The second call: what layers read instead of the weight."""
        return f"{self.weight}{_RESTORED}"

    @classmethod
    def read_as(cls, name: str) -> Int8Weight | None:
        """The weight that a layer reads under that name; None for another value."""
        return cls(name.removesuffix(_RESTORED)) if name.endswith(_RESTORED) else None


def unrounded(node: str) -> str:
    """A call whose value then is put on a grid, under the call's old name."""
    return f"{node}{_UNROUNDED}"


def rounded(node: str) -> str:
    """The old name of an ``unrounded`` call; of any other call its own."""
    return node.removesuffix(_UNROUNDED)


def on_grid(name: str) -> str:
    """An input on its grid."""
    return f"{name}{_ON_GRID}"


def corrected_bias(node: str) -> str:
    """The bias of a call that undoes what rounding does to it on average."""
    return f"{node}{_CORRECTED}"
