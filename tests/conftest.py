"""What every test may ask for (a seed that is printed when the test fails), and which tests share a worker."""

from __future__ import annotations

import gc
import os
import random
from typing import Any

# Before torch is imported: the tests share two cores with the programs that they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from xdist.scheduler import LoadScopeScheduling

ONE_AT_A_TIME = {
    "tests/cli/test_page.py",
    "tests/cloud_server/test_program.py",
    "tests/device_agent/test_end_to_end.py",
    "tests/device_agent/test_exits_end_to_end.py",
    "tests/experiments/test_adaptation.py",
    "tests/experiments/test_bandwidth_sweep.py",
    "tests/experiments/test_hosts.py",
    "tests/experiments/test_leftovers.py",
    "tests/experiments/test_links.py",
    "tests/experiments/test_proxy.py",
    "tests/test_readme.py",
    "tests/transport/test_overhead_experiment.py",
    "tests/witness/test_witness.py",
}
"""Files whose tests start several programs or shape links: with two of them at once, each would measure the other."""

MODELS_OF_THE_ZOO = {
    "tests/experiments/test_codec_experiment.py",
    "tests/planner/test_zoo_plans.py",
    "tests/runtime/test_every_cut.py",
    "tests/transport/test_every_cut_over_grpc.py",
    "tests/zoo/test_squeezed.py",
}
"""Files that capture the same large models (``tests.models.captured_real``), which takes longer than what they test."""


class _FilesTogether(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist ships no types
    """A file's tests go to one worker, in their order, so that what they share is made once."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file in ONE_AT_A_TIME:
            return "one at a time"
        return "models of the zoo" if file in MODELS_OF_THE_ZOO else file


@pytest.hookimpl(optionalhook=True)  # only pytest-xdist asks, and only with several workers (-n 2)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    if lost := [file for file in ONE_AT_A_TIME | MODELS_OF_THE_ZOO if not (config.rootpath / file).exists()]:
        raise pytest.UsageError(f"tests/conftest.py names files that are no longer there: {', '.join(sorted(lost))}")
    config.option.loadscopereorder = False  # the longest are near the front already; most tests does not mean longest
    return _FilesTogether(config, log)


def pytest_collection_finish() -> None:
    """What all tests were imported with stays: a collection of garbage need not visit those millions of objects."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="seed of the random tests; a fresh one by default")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A fresh seed for each run, or the one given with ``--seed``; pytest shows it with a failure."""
    chosen = request.config.getoption("--seed")
    value = random.SystemRandom().randrange(2**31) if chosen is None else int(chosen)
    print(f"seed {value}: repeat with --seed {value}")
    return value
