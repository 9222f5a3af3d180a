"""Links and rates: what is written comes back, and nonsense is named."""

from __future__ import annotations

import math
import random

import pytest

from splitnn.cost.network import Host, Link, Topology, format_rate, parse_link, parse_rate, parse_seconds


@pytest.mark.parametrize(
    ("text", "up_bps", "down_bps", "round_trip_s"),
    [
        ("10Mbps/20ms", 10e6, 10e6, 0.02),
        ("2Mbps:20Mbps/40ms", 2e6, 20e6, 0.04),
        (" 2 Mbps : 20 Mbit / 40 ms ", 2e6, 20e6, 0.04),
        ("1.5 Mbit/s/1s", 1.5e6, 1.5e6, 1.0),
        ("250kbps", 250e3, 250e3, 0.0),
        ("1Gbps/300us", 1e9, 1e9, 300e-6),
        ("8bps/0ms", 8.0, 8.0, 0.0),
    ],
)
def test_link_is_read_as_rates_and_round_trip(text: str, up_bps: float, down_bps: float, round_trip_s: float) -> None:
    up, down = parse_link(text)
    assert [up.bandwidth_bps, down.bandwidth_bps] == pytest.approx([up_bps, down_bps])
    assert up.latency_s + down.latency_s == pytest.approx(round_trip_s)


@pytest.mark.parametrize(
    "text",
    [
        "", "/", "fast", "10", "10Mbps/", "10Mbps/20", "10Mbps/fast", "10Mbps:/20ms", ":10Mbps/20ms", "10Mbps/20ms/3",
        "nanMbps/20ms", "NaN", "infMbps", "1e999Mbps", "0Mbps", "-5Mbps", "10Mbps/-20ms", "10Mbps/nanms",
        "10Mbps/1e999s", "1,5Mbps", "10MBps/20ms", "10MB/s", "10Mbps20ms", "10 furlongs", "١٠Mbps", "0x10Mbps",
    ],
)  # fmt: skip
def test_text_that_is_no_link_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no|is in bytes"):
        parse_link(text)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -1.0])
def test_link_without_a_usable_rate_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="bandwidth"):
        Link(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.001])
def test_link_without_a_usable_latency_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="latency"):
        Link(1e6, value)


def test_last_byte_arrives_after_the_latency_and_the_bits() -> None:
    assert Link(8e6, 0.25).transfer_seconds(1_000_000) == 1.25


@pytest.mark.parametrize(
    ("bits_per_second", "text"),
    [
        (999.9e6, "1Gbps"),
        (999.4e6, "999Mbps"),
        (12.5e6, "12.5Mbps"),
        (999.9, "1kbps"),
        (2e12, "2000Gbps"),
        (1e308, "1e+299Gbps"),
        (8, "8bps"),
    ],
)
def test_rate_is_written_to_three_digits(bits_per_second: float, text: str) -> None:
    assert format_rate(bits_per_second) == text


def test_written_rate_reads_back(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(2000):
        bits_per_second = 10 ** rng.uniform(-2, 13)
        assert parse_rate(format_rate(bits_per_second)) == pytest.approx(bits_per_second, rel=0.006)


def test_time_needs_its_unit() -> None:
    assert parse_seconds("1.5s") == 1.5
    with pytest.raises(ValueError, match="is no time"):
        parse_seconds("1.5")


def test_chain_needs_a_link_between_neighbours_and_different_hosts() -> None:
    with pytest.raises(ValueError, match="2 hosts need 1 links"):
        Topology.chain(["device", "cloud"], [])
    with pytest.raises(ValueError, match="0 hosts"):
        Topology(())
    with pytest.raises(ValueError, match="one name"):
        Topology.chain(["device", "device"], ["1Mbps"])


@pytest.mark.parametrize("name", ["", "a b", "a|b", "ä"])
def test_host_with_a_name_that_no_line_can_hold_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        Host(name)


@pytest.mark.parametrize("slowdown", [0.0, -1.0, math.nan, math.inf])
def test_host_with_a_slowdown_that_is_none_is_refused(slowdown: float) -> None:
    with pytest.raises(ValueError, match="slowdown"):
        Host("device", slowdown)
