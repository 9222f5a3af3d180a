"""Emulated links that exist: between namespaces where this machine can, by the proxy everywhere."""

import dataclasses
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.emulation.calibration import Calibration, Datagrams, LinkOffTarget, calibrate
from experiments.emulation.datagram_probe import spread_s
from experiments.emulation.hosts import Host
from experiments.emulation.links import NamespacedLink, emulated_link, proxied_link
from experiments.emulation.namespaces import (
    DEVICE,
    SERVER_HOST,
    NamespacePair,
    connect_by_veth,
    namespace_pair,
    netem_command,
    tbf_command,
    why_not_netem,
    why_not_relay,
)
from experiments.emulation.namespaces import run as run_command
from experiments.emulation.shape import METHODS, EmulatedLink, Method, Shape

ROOT = Path(__file__).resolve().parents[2]


def why_no_namespaced_link() -> str | None:
    try:
        with namespace_pair() as pair:
            if (no_netem := why_not_netem(pair)) and (no_relay := why_not_relay(pair)):
                return f"netem: {no_netem}; relay: {no_relay}"
    except RuntimeError as missing:
        return str(missing)
    return None


@pytest.fixture(scope="module")
def can_namespace() -> None:
    if missing := why_no_namespaced_link():
        pytest.skip(f"no link between namespaces here: {missing}")


@pytest.mark.slow
@pytest.mark.usefixtures("can_namespace")
def test_5_mbit_and_20_ms_between_namespaces_measure_as_such() -> None:
    with emulated_link(Shape(5e6, 5e6, rtt_s=0.02), methods=("netem", "tbf+relay")) as link:
        measured = calibrate(link)  # refuses when more than 3 % off
    assert 0.019 < measured.rtt_s < 0.03


@pytest.mark.slow
def test_5_mbit_and_20_ms_by_proxy_measure_as_such() -> None:
    with emulated_link(Shape(5e6, 5e6, rtt_s=0.02), methods=("proxy",)) as link:
        measured = calibrate(link)
    assert 0.019 < measured.rtt_s < 0.04


@pytest.mark.slow
@pytest.mark.usefixtures("can_namespace")
def test_no_packet_between_namespaces_is_larger_than_a_frame() -> None:
    with namespace_pair() as pair:
        connect_by_veth(pair)
        probe = (sys.executable, "-m", "experiments.emulation.link_probe")
        serving = subprocess.Popen(
            ["ip", "netns", "exec", pair.server, *probe, "serve", SERVER_HOST], cwd=ROOT, stdout=subprocess.PIPE
        )
        assert serving.stdout is not None
        with serving.stdout as output:
            port = int(output.readline())
        measure = (*probe, "measure", f"{SERVER_HOST}:{port}", "1", "3000000:1000000", "3000000:1000000")
        subprocess.run(["ip", "netns", "exec", pair.device, *measure], cwd=ROOT, check=True, timeout=60)
        serving.kill()
        serving.wait()
        for name in (pair.device, pair.server):
            said = subprocess.run(
                ["ip", "-n", name, "-s", "-j", "link", "show", DEVICE], check=True, capture_output=True
            )
            sent = json.loads(said.stdout)[0]["stats64"]["tx"]
            assert sent["bytes"] > 3_000_000
            assert sent["bytes"] <= 1514 * sent["packets"]


@pytest.mark.parametrize(
    ("measured", "fault"),
    [
        (Calibration(5.1e6, 4.9e6, 0.0205, 1), None),
        (Calibration(5.1e6, 4.9e6, 0.0225, 1), None),  # 0.26 ms of frames and what processes take
        (Calibration(5.2e6, 5e6, 0.0205, 1), r"up \+4.0%"),
        (Calibration(5e6, 4e6, 0.0205, 1), "down -20.0%"),
        (Calibration(5e6, float("nan"), 0.0205, 1), "down"),
        (Calibration(5e6, 5e6, 0.019, 1), "round trip -1.0 ms"),
        (Calibration(5e6, 5e6, 0.030, 1), r"round trip \+10.0 ms"),
    ],
)
def test_rates_and_round_trip_are_judged(measured: Calibration, fault: str | None) -> None:
    faults = measured.faults(Shape(5e6, 5e6, rtt_s=0.02))
    assert len(faults) == (fault is not None)
    if fault:
        assert re.search(fault, faults[0])


def test_a_slow_links_own_frames_are_part_of_its_ping() -> None:
    assert not Calibration(0.13e6, 0.13e6, 0.0205, 1).faults(Shape(0.13e6, 0.13e6, rtt_s=0.01))
    assert Calibration(13e6, 13e6, 0.0205, 1).faults(Shape(13e6, 13e6, rtt_s=0.01))


@pytest.fixture(params=["namespaces", "proxy"])
def link(request: pytest.FixtureRequest) -> Iterator[EmulatedLink]:
    methods: tuple[Method, ...] = ("proxy",) if request.param == "proxy" else ("netem", "tbf+relay")
    if request.param == "namespaces" and (missing := why_no_namespaced_link()):
        pytest.skip(f"no link between namespaces here: {missing}")
    with emulated_link(Shape(20e6, 20e6, rtt_s=0.004), methods=methods) as link:
        yield link


class Echo:
    """A server and a client on the two sides that send one byte there and back, by the real processes of a probe."""

    def __init__(self, link: EmulatedLink, server: Host, device: Host) -> None:
        command = [sys.executable, "-m", "experiments.emulation.link_probe", "serve", link.server_host]
        serving = server.start(command, cwd=ROOT, stdout=subprocess.PIPE)
        assert serving.stdout is not None
        with serving.stdout as output:
            self._address = link.address_of(int(output.readline()))
        self._device = device

    def answers(self, limit_s: float) -> bool:
        command = [
            sys.executable,
            "-m",
            "experiments.emulation.link_probe",
            "measure",
            self._address,
            "3",
            "1:16384",
            "1:16384",
        ]
        asking = self._device.start(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            output, _ = asking.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            asking.kill()
            asking.communicate()
            return False
        return asking.returncode == 0 and json.loads(output)["rtt_s"] > 0.003


@pytest.mark.slow
def test_an_outage_passes_nothing_and_heals(link: EmulatedLink) -> None:
    with Host("server", link=link, side="server") as server, Host("device", link=link, side="device") as device:
        echo = Echo(link, server, device)
        assert echo.answers(20)
        link.block()
        assert not echo.answers(1.5)
        link.heal()
        assert echo.answers(20)
        link.set(up_bps=1e6, rtt_s=0.05)
        assert link.shape == Shape(1e6, 20e6, rtt_s=0.05)
        assert echo.answers(20)


class Liar:
    """A link that says another shape than it has; lets all changes through but for those of ``ignored``."""

    def __init__(self, link: EmulatedLink, shape: Shape, *ignored: str, leaks: bool = False) -> None:
        self.method: Method = link.method
        self.cannot = link.cannot
        self.server_host = link.server_host
        self.shape = shape
        self.is_blocked = link.is_blocked
        self.namespace = link.namespace
        self.address_of = link.address_of
        self.release = link.release
        self.heal = link.heal
        self._link, self._ignored, self._leaks = link, ignored, leaks

    def set(self, **changes: float) -> None:
        self._link.set(**{name: value for name, value in changes.items() if name not in self._ignored})

    def block(self) -> None:
        if not self._leaks:
            self._link.block()


@pytest.mark.slow
def test_a_link_that_is_not_what_it_says_is_refused() -> None:
    with emulated_link(Shape(2e6, 2e6), methods=("proxy",)) as link, pytest.raises(LinkOffTarget, match=r"up -50"):
        calibrate(Liar(link, Shape(4e6, 2e6), "jitter_s", "loss"), tries=1)


@pytest.mark.slow
def test_an_outage_that_lets_traffic_through_is_refused(link: EmulatedLink) -> None:
    with pytest.raises(LinkOffTarget, match="an outage lets traffic through"):
        calibrate(Liar(link, link.shape, leaks=True), tries=1)


NOISY = Shape(20e6, 20e6, rtt_s=0.03, jitter_s=0.006, loss=0.1)


@pytest.mark.slow
@pytest.mark.usefixtures("can_namespace")
def test_jitter_and_loss_measure_as_such_and_are_in_force_afterwards() -> None:
    with emulated_link(NOISY, methods=("netem", "tbf+relay"), seed=1) as link:
        measured = calibrate(link)
        assert link.shape == NOISY
    for way in measured.jitter:
        assert way.jitter_s == pytest.approx(NOISY.jitter_s, rel=0.25)
    for way in measured.loss:
        assert way.loss == pytest.approx(NOISY.loss, rel=0.25)
    assert len(measured.jitter) == len(measured.loss) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("can_namespace")
@pytest.mark.parametrize(
    ("said", "ignored", "fault"),
    [
        (Shape(20e6, 20e6, rtt_s=0.03, jitter_s=0.006), "jitter_s", "jitter up -"),
        (Shape(20e6, 20e6, rtt_s=0.03, loss=0.1), "loss", "loss up 0.00%"),
    ],
)
def test_a_link_without_the_jitter_or_loss_that_it_was_asked_for_is_refused(
    said: Shape, ignored: str, fault: str
) -> None:
    plain = Shape(20e6, 20e6, rtt_s=0.03)
    with (
        emulated_link(plain, methods=("netem", "tbf+relay")) as link,
        pytest.raises(LinkOffTarget, match=fault),
    ):
        calibrate(Liar(link, said, ignored), tries=1)


def test_jitter_loss_and_outage_are_judged() -> None:
    def faults(jitter: tuple[Datagrams, ...], loss: tuple[Datagrams, ...], *, silent: bool = True) -> list[str]:
        measured = Calibration(20e6, 20e6, 0.0305, 1, jitter=jitter, loss=loss, is_silent_when_blocked=silent)
        return measured.faults(NOISY)

    def spread(jitter_s: float) -> Datagrams:
        return Datagrams(300, 270, 1.6 * jitter_s)

    def lost(share: float) -> Datagrams:
        return Datagrams(10_000, round(10_000 * (1 - share)), 0.0)

    right = (spread(0.006), spread(0.006)), (lost(0.1), lost(0.1))
    assert faults(*right) == []
    assert faults((spread(0.0070), spread(0.0050)), right[1]) == []  # 15 % and 0.5 ms
    assert faults((spread(0.0080), spread(0.006)), right[1]) == ["jitter up +2.0 ms"]
    assert faults((spread(0.006), Datagrams(300, 0, 0.0)), right[1]) == ["jitter down -6.0 ms"]
    assert faults(right[0], (lost(0.124), lost(0.076))) == []
    assert faults(right[0], (lost(0.126), lost(0.0))) == ["loss up 12.60%", "loss down 0.00%"]
    assert faults(*right, silent=False) == ["an outage lets traffic through"]


def test_a_loss_too_small_to_be_counted_to_a_quarter_may_be_off_by_four_deviations() -> None:
    wanted = Shape(20e6, 20e6, rtt_s=0.03, loss=0.001)  # of 10,000: 10 +- 3.2
    for received, is_right in ((9_978, True), (9_977, False)):
        way = Datagrams(10_000, received, 0.0)
        assert (not Calibration(20e6, 20e6, 0.0305, 1, loss=(way, way)).faults(wanted)) == is_right


def test_eight_tenths_of_an_even_jitter_lie_within_1_6_times_as_much() -> None:
    chance = random.Random(1)
    took_s = [0.01 + chance.uniform(-0.004, 0.004) for _ in range(5000)]
    assert Datagrams(5000, 5000, spread_s(took_s)).jitter_s == pytest.approx(0.004, rel=0.03)
    assert spread_s([0.01]) == 0.0


def test_a_proxy_is_not_passed_off_as_a_link_with_losses() -> None:
    with (
        pytest.raises(RuntimeError, match="no jitter and no loss"),
        emulated_link(Shape(1e6, 1e6, rtt_s=0.02, loss=0.01), methods=("proxy",)),
    ):
        pass


@pytest.mark.parametrize(
    "wrong",
    [{"up_bps": 0.0}, {"down_bps": float("nan")}, {"rtt_s": -1.0}, {"jitter_s": 0.2}, {"loss": 1.0}, {"loss": -0.1}],
)
def test_no_link_has_a_shape_of_nonsense(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"rates|round trip must|jitter|loss"):
        Shape(**({"up_bps": 1e6, "down_bps": 1e6, "rtt_s": 0.1} | wrong))


def test_whole_numbers_are_a_shape_like_any_other(link: EmulatedLink) -> None:
    shape = Shape(5_000_000, 5_000_000)
    assert all(type(value) is float for value in dataclasses.astuple(shape))
    link.set(up_bps=5_000_000, loss=0, jitter_s=0, rtt_s=0)
    assert link.shape == Shape(5e6, 20e6)


def proxies_of_this_process() -> set[int]:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {int(pid) for pid in children if "experiments.emulation.proxy" in Path(f"/proc/{pid}/cmdline").read_text()}


def test_a_released_port_keeps_no_process_and_the_others_go_on() -> None:
    before = proxies_of_this_process()
    with proxied_link(Shape(20e6, 20e6)) as link:
        kept = link.address_of(40_001)
        link.address_of(40_002)
        assert len(proxies_of_this_process() - before) == 2
        link.release(40_002)
        link.release(40_003)
        assert len(proxies_of_this_process() - before) == 1
        link.set(up_bps=1e6)
        assert link.address_of(40_001) == kept
    assert proxies_of_this_process() == before


@pytest.mark.slow
def test_calibrations_leave_no_processes() -> None:
    before = proxies_of_this_process()
    with proxied_link(Shape(20e6, 20e6)) as link:
        for _ in range(2):
            calibrate(link)
        assert proxies_of_this_process() == before


class Refusing:
    """Puts shapes in force, but refuses rates below 1 kbit/s, as tc does, when half is done already."""

    def __init__(self) -> None:
        self.in_force = (0.0, 0.0, 0.0)
        self.refuses_all = False

    def __call__(self, shape: Shape, loss: float) -> None:
        self.in_force = (shape.up_bps, self.in_force[1], self.in_force[2])
        if shape.up_bps < 1e3 or self.refuses_all:
            raise RuntimeError("tc: illegal rate")
        self.in_force = (shape.up_bps, shape.down_bps, loss)


def test_a_change_that_is_refused_leaves_the_link_as_it_was() -> None:
    apply = Refusing()
    pair = NamespacePair("nobody's device", "nobody's server")
    link = NamespacedLink(pair, Shape(2e6, 3e6), apply, method="netem", cannot="carry anything")
    with pytest.raises(RuntimeError, match="illegal rate"):
        link.set(up_bps=1.0, loss=0.5)
    assert link.shape == Shape(2e6, 3e6)
    assert apply.in_force == (2e6, 3e6, 0.0)
    link.block()
    assert apply.in_force == (2e6, 3e6, 1.0)
    apply.refuses_all = True
    with pytest.raises(RuntimeError, match="illegal rate"):
        link.heal()
    assert link.is_blocked
    apply.refuses_all = False
    link.heal()
    assert not link.is_blocked
    assert apply.in_force == (2e6, 3e6, 0.0)


@pytest.mark.usefixtures("can_namespace")
def test_a_rate_that_tc_refuses_does_not_spoil_a_link_between_namespaces() -> None:
    with emulated_link(Shape(5e6, 5e6), methods=("netem", "tbf+relay")) as link:
        with pytest.raises(RuntimeError, match="tc"):
            link.set(up_bps=1e-3)
        assert link.shape == Shape(5e6, 5e6)
        link.block()
        link.heal()


def test_a_command_that_does_not_end_is_refused_like_one_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.emulation.namespaces._LONGEST_COMMAND_S", 0.05)
    with pytest.raises(RuntimeError, match=r"sleep 60: no end within 0.05 s"):
        run_command("sleep", "60")


def test_netem_gets_all_of_the_shape_and_tbf_the_rate_without_the_header_that_a_tun_device_lacks() -> None:
    netem = " ".join(netem_command("ns", 5e6, latency_s=0.01, jitter_s=0.002, loss=0.01))
    assert "rate 5000000bit delay 10000us 2000us loss 1.0000% limit 107" in netem
    assert f"rate {5e6 * 1500 / 1514:.0f}bit burst 3100 limit 125000" in " ".join(tbf_command("ns", 5e6))


def test_without_root_the_reason_names_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with (
        pytest.raises(RuntimeError, match="need root"),
        emulated_link(Shape(1e6, 1e6), methods=("netem", "tbf+relay")),
    ):
        pass
    with emulated_link(Shape(1e6, 1e6), methods=METHODS) as link:
        assert link.method == "proxy"
        assert link.cannot
