"""Energy against numbers worked out by hand, and the prices of single terms against the whole."""

from __future__ import annotations

import math
import random

import pytest

from splitnn.cost.cost import Cost, Transfer
from splitnn.cost.energy import EnergyPrices, energy, energy_prices
from splitnn.cost.estimate import estimate
from splitnn.cost.network import Link, Topology
from splitnn.cost.power import DEVICES, RADIOS, DevicePower, Radio, device_power, radio
from splitnn.cost.profile import Profile, Timing
from splitnn.graph.graph import Graph, Layer, TensorSpec

BOARD = DevicePower("board", compute_w=5.0, idle_w=2.0, source="made up", verified=True)
# 1 W and 0.5 W for each Mbit/s to send, 0.5 W and 0.1 W to receive; awake for 10 s at 1 W
MODEM = Radio("modem", 1.0, 0.5e-6, 0.5, 0.1e-6, 1.0, 10.0, source="made up", verified=False)
UP, DOWN = Link(2e6, 0.05), Link(10e6, 0.05)
PRICES = energy_prices(BOARD, MODEM, up=UP, down=DOWN)


def test_a_request_costs_what_pencil_and_paper_say() -> None:
    # 1 s of layers and 0.1 s of encoding here; 250 000 B up at 2 Mbit/s: 1 s; 0.2 s decoding, 0.3 s of layers there;
    # 125 000 B down at 10 Mbit/s: 0.1 s; 0.1 s of round trip
    cost = Cost(
        latency_ns=2_800_000_000,
        compute_s=(1.0, 0.3),
        transfers=(Transfer("t", 0, "int8", 250_000, encode_s=0.1, wire_s=1.0, decode_s=0.2),),
        download_s=0.1,
        round_trip_s=0.1,
    )
    found = energy(cost, PRICES)
    assert found.compute_j == pytest.approx(1.1 * 5)
    assert found.transfer_j == pytest.approx(1.0 * (2 + 1 + 0.5 * 2) + 0.1 * (2 + 0.5 + 0.1 * 10))
    assert found.waiting_j == pytest.approx((0.2 + 0.3 + 0.1) * 2)
    assert found.tail_j == pytest.approx(10.0)
    assert found.total_j == pytest.approx(5.5 + 4.35 + 1.2 + 10.0)
    assert "modelled" in str(found)


def test_layers_beyond_a_hop_wake_its_radio_even_when_they_take_no_time_and_nothing_crosses() -> None:
    graph = Graph((Layer("l", "op", (), ("t",)),), {"t": TensorSpec((0,), "float32")}, (), ("t",))
    profiles = {name: Profile("m", name, {"l": Timing(0, 0)}, Timing(1, 1)) for name in ("device", "cloud")}
    topology = Topology.chain(["device", "cloud"], ["1Mbps/0ms"])
    beyond, at_home = (estimate(graph, {"l": host}, profiles, topology) for host in ("cloud", "device"))
    assert energy(beyond, PRICES).tail_j == PRICES.tail_j > 0
    assert energy(at_home, PRICES).total_j == 0


def test_a_request_that_stays_on_the_device_costs_its_computing_only() -> None:
    found = energy(Cost(2_000_000_000, (2.0, 0.0), (), 0.0, 0.0), PRICES)
    assert found.total_j == found.compute_j == 10.0


@pytest.mark.parametrize(("interval_s", "tail_j"), [(math.inf, 10.0), (10.0, 10.0), (0.5, 0.5), (0.0, 0.0)])
def test_requests_that_follow_soon_share_the_tail(interval_s: float, tail_j: float) -> None:
    assert energy_prices(BOARD, MODEM, up=UP, down=DOWN, interval_s=interval_s).tail_j == tail_j


def test_joules_of_a_byte_are_linear_in_one_over_the_bandwidth() -> None:
    def price(bandwidth_bps: float) -> float:
        return energy_prices(BOARD, MODEM, up=Link(bandwidth_bps), down=DOWN).send_j_per_byte

    slope, intercept = 8 * (BOARD.idle_w + MODEM.send_base_w), 8 * MODEM.send_w_per_bps
    for bandwidth_bps in (1e4, 1e6, 3e7, 1e10):
        assert price(bandwidth_bps) == pytest.approx(intercept + slope / bandwidth_bps)


def chain(generator: random.Random, length: int) -> Graph:
    tensors = ["x", *(f"t{i}" for i in range(length))]
    return Graph(
        layers=tuple(Layer(f"l{i}", "aten.relu.default", (tensors[i],), (tensors[i + 1],)) for i in range(length)),
        tensors={name: TensorSpec((generator.randint(1, 10**6),), "float32") for name in tensors},
        inputs=("x",),
        outputs=(tensors[-1],),
    )


@pytest.mark.parametrize("hosts", [2, 3])
def test_prices_of_single_terms_add_up_to_the_energy_of_the_placement(hosts: int) -> None:
    """So whoever minimises the sum of the terms minimises the energy."""
    seed = random.randrange(2**32)
    print("seed", seed)
    generator = random.Random(seed)
    graph = chain(generator, 6)
    names = [f"h{i}" for i in range(hosts)]
    topology = Topology.chain(names, ["3Mbps:7Mbps/30ms", "50Mbps/5ms"][: hosts - 1])
    profiles = {
        name: Profile("m", name, {y.name: Timing(s := generator.random(), s) for y in graph.layers}, Timing(1, 1))
        for name in names
    }
    prices = energy_prices(BOARD, MODEM, up=topology.up[0], down=topology.down[0])
    for _ in range(20):
        tiers = sorted(generator.randrange(hosts) for _ in graph.layers)
        placement = {layer.name: names[tier] for layer, tier in zip(graph.layers, tiers, strict=True)}
        cost = estimate(graph, placement, profiles, topology)
        result = graph.tensors[graph.outputs[0]].size_bytes
        found = energy(cost, prices, downloaded_bytes=result if tiers[-1] else 0)
        assert found.total_j == pytest.approx(
            sum(
                prices.layer_j(profiles[names[tier]].seconds(layer.name), tier=tier)
                for layer, tier in zip(graph.layers, tiers, strict=True)
            )
            + sum(prices.transfer_j(transfer) for transfer in cost.transfers)
            + sum(
                prices.download_j(result, hop=hop, seconds=result * 8 / topology.down[hop].bandwidth_bps)
                + prices.round_trip_j(topology.up[hop].latency_s + topology.down[hop].latency_s, hop=hop)
                for hop in range(tiers[-1])
            ),
            rel=1e-6,  # a cost is in whole nanoseconds
        )


def test_the_device_never_pays_for_the_cloud_but_by_waiting() -> None:
    free = energy_prices(DevicePower("on anyway", 5.0, 0.0, "", verified=True), RADIOS["wired"], up=UP, down=DOWN)
    cost = Cost(0, (1.0, 100.0), (Transfer("t", 0, "raw", 10**6, 0.0, 4.0, 0.0),), 1.0, 0.1)
    assert energy(cost, free).total_j == 5.0


def test_published_constants_name_their_source() -> None:
    sources = [device.source for device in DEVICES.values()] + [radio.source for radio in RADIOS.values()]
    assert all(len(source) > 10 for source in sources)
    assert not energy_prices(device_power("raspberry-pi-4"), radio("lte"), up=UP, down=DOWN).is_verified
    assert device_power("raspberry-pi-4").idle_w < device_power("raspberry-pi-4").compute_w
    assert radio("lte").sending_w(1e6) == pytest.approx(1.28804 + 0.43839)
    assert radio("lte").receiving_w(10e6) == pytest.approx(1.28804 + 0.5197)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'WiFi'.*did you mean wifi.*lte"):
        radio("WiFi")
    with pytest.raises(ValueError, match="raspberry-pi-4"):
        device_power("abacus")


@pytest.mark.parametrize("watts", [-1.0, math.nan, math.inf])
def test_powers_must_be_finite_and_not_negative(watts: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        DevicePower("d", watts, 0.0, "", verified=True)
    with pytest.raises(ValueError, match="finite"):
        Radio("r", watts, 0.0, 0.0, 0.0, 0.0, 0.0, "", verified=True)


def test_an_interval_must_be_a_time() -> None:
    for interval_s in (-1.0, math.nan):
        with pytest.raises(ValueError, match="interval"):
            energy_prices(BOARD, MODEM, up=UP, down=DOWN, interval_s=interval_s)


def test_prices_say_that_they_are_modelled() -> None:
    assert isinstance(PRICES, EnergyPrices) and "modelled, not measured" in PRICES.source
