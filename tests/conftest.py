"""What every test may ask for: a seed that is printed when the test fails."""

from __future__ import annotations

import os
import random

# Before torch is imported: the tests share two cores with the programs that they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="seed of the random tests; a fresh one by default")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A fresh seed for each run, or the one given with ``--seed``; pytest shows it with a failure."""
    chosen = request.config.getoption("--seed")
    value = random.SystemRandom().randrange(2**31) if chosen is None else int(chosen)
    print(f"seed {value}: repeat with --seed {value}")
    return value
