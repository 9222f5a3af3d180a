"""A link that follows a trace, with time in our hands."""

import subprocess
import threading

import pytest

from experiments.emulation.replay import follow, replayed
from experiments.emulation.shape import Method, Shape, Side
from experiments.emulation.traces import Trace


class RecordingLink:
    """Notes what it is told and when."""

    method: Method = "proxy"
    cannot = "carry anything"
    server_host = "127.0.0.1"

    def __init__(self) -> None:
        self.shape = Shape(1e6, 1e6)
        self.is_blocked = False
        self.now_s = 50.0
        self.told: list[tuple[float, str]] = []

    def namespace(self, side: Side) -> str | None:
        return None

    def address_of(self, port: int) -> str:
        return f"127.0.0.1:{port}"

    def release(self, port: int) -> None:
        pass

    def set(self, **changes: float) -> None:
        self.told.append((self.now_s, " ".join(f"{name} {value:g}" for name, value in changes.items())))

    def block(self) -> None:
        self.is_blocked = True
        self.told.append((self.now_s, "block"))

    def heal(self) -> None:
        self.is_blocked = False
        self.told.append((self.now_s, "heal"))


def test_a_link_follows_the_trace_round_and_round_and_a_rate_of_zero_is_an_outage() -> None:
    link = RecordingLink()

    def stopped(wait_s: float) -> bool:
        link.now_s += wait_s + 0.004  # late, which must not add up
        return link.now_s > 55.5

    follow(Trace((0.0, 1.0), (2e6, 0.0), 2.0), link, ways=("up_bps",), stopped=stopped, now=lambda: link.now_s)
    assert [what for _, what in link.told] == ["up_bps 2e+06", "block"] + ["up_bps 2e+06", "heal", "block"] * 2
    assert [when for when, _ in link.told] == pytest.approx([50, 51, 52, 52, 53, 54, 54, 55], abs=0.01)


def test_after_a_replay_the_link_is_what_it_was() -> None:
    link = RecordingLink()
    with replayed(Trace((0.0,), (0.0,), 1000.0), link):
        pass
    assert [what for _, what in link.told][-2:] == ["heal", "up_bps 1e+06 down_bps 1e+06"]


def test_a_link_that_was_blocked_before_a_replay_is_blocked_after_it() -> None:
    link = RecordingLink()
    link.block()
    with replayed(Trace((0.0,), (2e6,), 1000.0), link):
        pass
    assert link.is_blocked


class Unhealable(RecordingLink):
    def heal(self) -> None:
        raise RuntimeError("tc is gone")


def test_a_link_that_cannot_be_healed_gets_its_rates_back_and_the_replay_says_so() -> None:
    link = Unhealable()
    with pytest.raises(RuntimeError, match=r"not what it was.*tc is gone"), replayed(Trace((0.0,), (2e6,), 9.0), link):
        pass
    assert link.told[-1][1] == "up_bps 1e+06 down_bps 1e+06"


def test_what_an_experiment_raised_is_not_replaced_by_what_its_end_raised() -> None:
    with pytest.raises(KeyError, match="mine"), replayed(Trace((0.0,), (2e6,), 9.0), Unhealable()):
        raise KeyError("mine")


def test_steps_that_are_over_before_their_turn_are_left_out_so_that_the_lag_does_not_grow() -> None:
    class Slow(RecordingLink):
        def set(self, **changes: float) -> None:
            super().set(**changes)
            self.now_s += 0.25  # to change it

    link = Slow()
    steps = 40
    trace = Trace(tuple(i * 0.1 for i in range(steps)), tuple((i + 1) * 1e6 for i in range(steps)), steps * 0.1)

    def stopped(wait_s: float) -> bool:
        link.now_s += wait_s
        return link.now_s > 53.8

    follow(trace, link, ways=("up_bps",), stopped=stopped, now=lambda: link.now_s)
    for when, what in link.told:
        assert float(what.split()[1]) == pytest.approx(trace.rate_at(when - 50 + 1e-9))
    assert len(link.told) > 10


@pytest.mark.parametrize("failure", [RuntimeError("tc is gone"), subprocess.TimeoutExpired("tc", 30), OSError("tc")])
def test_a_link_that_cannot_be_changed_fails_the_experiment(failure: Exception) -> None:
    was_told = threading.Event()

    class Broken(RecordingLink):
        def block(self) -> None:
            was_told.set()
            raise failure

    with pytest.raises(RuntimeError, match=r"stopped following.*tc"), replayed(Trace((0.0,), (0.0,), 1000.0), Broken()):
        assert was_told.wait(10)
