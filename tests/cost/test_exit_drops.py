"""What codecs cost by policy: as a value, and as JSON that somebody else may have written."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from splitnn.cost.accuracy import Calibrated, Calibration
from splitnn.cost.exit_drops import MOST_ASKED, ExitDrops
from splitnn.graph.exits import Exit
from splitnn.graph.recipe import Drop

EXITS = (Exit("exit1", "a", 1.25, 0.5), Exit("exit2", "b", 2.0, 0.75), Exit("last", "c"))
DROP = Drop(0.01, -0.005, 0.02)
DROPS = ExitDrops(EXITS, {"t": {"int8": {("exit1",): DROP, ("exit1", "last"): DROP}, "even2": {("last",): DROP}}})


def calibration() -> Calibration:
    return Calibration(
        {"t": {"int8": Calibrated(DROP, 3, 4)}}, against="model", data="d", samples=5, exits=DROPS, answer="c"
    )


def test_json_gives_back_the_same_and_older_files_have_none() -> None:
    written = json.loads(json.dumps(calibration().to_json(), allow_nan=False))
    assert Calibration.from_json(written) == calibration()
    del written["exits"]
    del written["answer"]
    older = Calibration.from_json(written)
    assert older.exits is None and older.answer is None


def _without_exits(exits: Any) -> None:
    exits["exits"] = []


def _twice(exits: Any) -> None:
    exits["exits"][1]["name"] = "exit1"


def _unknown(exits: Any) -> None:
    exits["drops"]["t"]["int8"]["exit9"] = [0, 0, 0]


def _nobody(exits: Any) -> None:
    exits["drops"]["t"]["int8"][""] = [0, 0, 0]


def _deeper_first(exits: Any) -> None:
    exits["drops"]["t"]["int8"]["last,exit1"] = [0, 0, 0]


def _not_a_number(exits: Any) -> None:
    exits["drops"]["t"]["int8"]["exit1"] = [0, 0, float("nan")]


def _too_short(exits: Any) -> None:
    exits["drops"]["t"]["int8"]["exit1"] = [0]


def _a_list(exits: Any) -> None:
    exits["drops"]["t"] = [1]


def _no_threshold(exits: Any) -> None:
    exits["exits"][0]["threshold"] = 7


@pytest.mark.parametrize(
    "spoil",
    [_without_exits, _twice, _unknown, _nobody, _deeper_first, _not_a_number, _too_short, _a_list, _no_threshold],
)
def test_what_is_no_table_is_refused(spoil: Any) -> None:
    written = copy.deepcopy(calibration().to_json())
    spoil(written["exits"])
    with pytest.raises(ValueError):
        Calibration.from_json(written)


def test_more_ways_than_there_can_be_are_refused() -> None:
    exits = tuple(Exit(f"exit{at}", f"t{at}") for at in range(8))
    ways = {tuple(f"exit{at}" for at in range(8) if number >> at & 1): DROP for number in range(1, MOST_ASKED + 2)}
    with pytest.raises(ValueError, match="at most 63"):
        ExitDrops(exits, {"t": {"int8": ways}})
