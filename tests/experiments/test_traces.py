"""Bandwidth traces: the value, the loaders, the generators."""

import itertools
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from experiments.emulation.synthetic_traces import CHAINS, synthetic_trace
from experiments.emulation.traces import Trace, load_mahimahi, load_seconds_mbit, load_trace, load_ucc


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_rate_holds_until_the_next_time_and_the_trace_loops() -> None:
    trace = Trace((0.0, 1.0, 3.0), (1e6, 2e6, 0.0), 4.0)
    assert [trace.rate_at(time_s) for time_s in (0, 0.99, 1, 2.99, 3.5, 4, 5.5, 403.5)] == [
        1e6, 1e6, 2e6, 2e6, 0, 1e6, 2e6, 0,
    ]  # fmt: skip
    assert list(itertools.islice(trace.looped(), 3, 5)) == [(4.0, 1e6), (5.0, 2e6)]
    assert trace.mean_bps() == pytest.approx((1 + 4 + 0) * 1e6 / 4)
    assert trace.scaled(0.5).mean_bps() == pytest.approx(trace.mean_bps() / 2)


@pytest.mark.parametrize(
    ("times_s", "rates_bps", "duration_s"),
    [
        ((), (), 1.0),
        ((0.0, 1.0), (1.0,), 2.0),
        ((1.0, 2.0), (1.0, 1.0), 3.0),
        ((0.0, 2.0, 1.0), (1.0, 1.0, 1.0), 3.0),
        ((0.0,), (1.0,), 0.0),
        ((0.0,), (-1.0,), 1.0),
        ((0.0,), (float("nan"),), 1.0),
    ],
)
def test_no_trace_is_made_of_nonsense(
    times_s: tuple[float, ...], rates_bps: tuple[float, ...], duration_s: float
) -> None:
    with pytest.raises(ValueError, match="trace"):
        Trace(times_s, rates_bps, duration_s)


def test_mahimahi_stamps_are_1500_bytes_each_and_none_is_lost(tmp_path: Path) -> None:
    trace = load_mahimahi(written(tmp_path, "t.up", "0\n0\n500\n1500\n1500\n2900\n3000\n"))
    assert trace.rates_bps == pytest.approx((3 * 12e3, 2 * 12e3, 2 * 12e3))
    assert trace.duration_s == 3.0
    finer = load_mahimahi(tmp_path / "t.up", step_s=0.1)
    assert finer.mean_bps() * finer.duration_s == pytest.approx(7 * 12e3)


def test_seconds_and_mbit_begin_at_zero_and_end_a_median_step_after_the_last(tmp_path: Path) -> None:
    trace = load_seconds_mbit(written(tmp_path, "t", "10.0 4.0\n11.0 1.5\n\n12.5\t0\n13.5 2\n"))
    assert list(trace) == [(0.0, 4e6), (1.0, 1.5e6), (2.5, 0.0), (3.5, 2e6)]
    assert trace.duration_s == 4.5


UCC = (
    "Timestamp,Longitude,NetworkMode,DL_bitrate,UL_bitrate,State\n"
    "2019.12.16_23.59.58,-8.4,5G,52000,310,D\n"
    "2019.12.16_23.59.58,-8.4,5G,54000,330,D\n"
    "2019.12.17_00.00.00,-8.4,5G,80000,400,D\n"
    "2019.12.17_00.00.01,-8.4,5G,0,0,D\n"
)


def test_ucc_rates_are_kbit_and_rows_of_one_second_are_averaged(tmp_path: Path) -> None:
    path = written(tmp_path, "t.csv", UCC)
    assert list(load_ucc(path, column="DL_bitrate")) == [(0.0, 53e6), (2.0, 80e6), (3.0, 0.0)]
    assert load_ucc(path, column="UL_bitrate").rates_bps == (320e3, 400e3, 0.0)


def test_the_format_is_recognised(tmp_path: Path) -> None:
    assert load_trace(written(tmp_path, "a.csv", UCC)).rates_bps[0] == 320e3
    assert load_trace(tmp_path / "a.csv", column="DL_bitrate").rates_bps[0] == 53e6
    assert load_trace(written(tmp_path, "a2.csv", "\ufeff" + UCC)).rates_bps[0] == 320e3
    noted = UCC.replace("State", "Note").replace("330,D", '330,"two\nlines"')
    assert load_trace(written(tmp_path, "a3.csv", noted)) == load_trace(tmp_path / "a.csv")
    assert load_trace(written(tmp_path, "b.up", "1000\n")).rates_bps == (12e3,)
    assert load_trace(written(tmp_path, "c", "0 1\n1 2\n")).rates_bps == (1e6, 2e6)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.up", "12\nx\n", "line 2: expected whole milliseconds, got 'x'"),
        ("b.up", "12\n11\n", "line 2: 11 ms comes after a later time"),
        ("c.up", "0\n0\n", "at least one line above 0"),
        ("d", "0 1\n1 2 3\n", "line 2: expected seconds and Mbit/s"),
        ("e", "0 1\n0 2\n", "line 2: 0.0 s does not come after"),
        ("f", "0 1\n1 -2\n", "line 2: .* is no rate"),
        ("g", "0 1\n1 nan\n", "line 2: nan bit/s is no rate"),
        ("h", "0 1\n", "at least two samples"),
        ("i", "", "at least two samples"),
        ("j.csv", "time,rate\n1,2\n", "expected the columns Timestamp and UL_bitrate, got time, rate"),
        ("l.up", "1\n999999999999999\n", "line 2: .* longer than any recording"),
        ("m.up", "1700000000000\n1700000000100\n", "line 1: .* longer than any recording"),
        ("n.up", "1\n" + "9" * 5000 + "\n", "line 2: expected whole milliseconds"),
        ("o", "0 1\n1e300 2\n", "line 2: .* longer after the start"),
        ("p.csv", 'Timestamp,UL_bitrate\n"2019.12.16_13.40.04\nx",5\n', "line 3: expected a time"),
        ("q.csv", "Timestamp,UL_bitrate\n2019.12.16_13.40.04," + "5" * 200_000 + "\n", "no CSV"),
        (
            "r.csv",
            "Timestamp,UL_bitrate\n2019.12.16_13.40.04,1\n2019.12.16_13.40.05,1\n2019.12.16_13.40.04,9\n",
            "line 4: 2019.12.16_13.40.04 comes 1 s before an earlier row",
        ),
        ("k.csv", "Timestamp,UL_bitrate\n2019.12.16_13.40.04,-\n", r"line 2: expected a time such as"),
    ],
)
def test_a_file_of_another_format_is_refused_by_name_and_line(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    with pytest.raises(ValueError, match=rf"{name}.*{message}"):
        load_trace(written(tmp_path, name, text))


@pytest.mark.parametrize("kind", ["3g", "4g", "5g", "wifi"])
def test_a_synthetic_trace_has_its_chains_mean_and_repeats_with_its_seed(
    kind: Literal["3g", "4g", "5g", "wifi"],
) -> None:
    seed = 20
    print("seed", seed)
    trace = synthetic_trace(kind, duration_s=60_000, seed=seed)
    chain = CHAINS[kind]
    moves = np.array(chain.moves)
    values, vectors = np.linalg.eig((moves / moves.sum(1, keepdims=True)).T)
    long_run = np.real(vectors[:, np.argmax(np.real(values))])
    long_run /= long_run.sum()
    levels = np.array(chain.levels_bps)
    mean = float(long_run @ levels)
    deviation = float(np.sqrt(long_run @ levels**2 * (1 + 0.15**2 / 3) - mean**2))
    assert trace.mean_bps() == pytest.approx(mean, rel=0.1)
    assert np.std(trace.rates_bps) == pytest.approx(deviation, rel=0.1)
    assert trace == synthetic_trace(kind, duration_s=60_000, seed=seed)
    assert trace != synthetic_trace(kind, duration_s=60_000, seed=seed + 1)


@pytest.mark.parametrize(("kind", "recorded_bps"), [("3g", 0.943e6), ("4g", 9.63e6)])
def test_a_fitted_chain_has_the_mean_of_its_recording(kind: Literal["3g", "4g"], recorded_bps: float) -> None:
    print("seed", 3)
    assert synthetic_trace(kind, duration_s=60_000, seed=3).mean_bps() == pytest.approx(recorded_bps, rel=0.15)


def test_a_kind_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="3g, 4g, 5g, wifi"):
        synthetic_trace("6g", duration_s=10, seed=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("duration_s", [float("inf"), float("nan"), 0.0, 1e300])
def test_a_duration_that_no_trace_has_is_refused(duration_s: float) -> None:
    with pytest.raises(ValueError, match="lasts"):
        synthetic_trace("4g", duration_s=duration_s, seed=0)


@pytest.mark.parametrize("step_s", [0.0, -1.0, float("nan"), 1e-9])
def test_a_step_below_the_clocks_own_is_refused(tmp_path: Path, step_s: float) -> None:
    with pytest.raises(ValueError, match="step"):
        load_mahimahi(written(tmp_path, "t.up", "1000\n"), step_s=step_s)
