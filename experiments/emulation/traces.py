"""How a link's rate changes over time: the ``Trace`` value, and loaders for the formats that recordings come in."""

from __future__ import annotations

import bisect
import csv
import itertools
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

_MAHIMAHI_PACKET_BYTES = 1500
_LARGEST_FILE_BYTES = 256 << 20
_MOST_STEPS = 10_000_000
_LEAST_S = 0.01  # of a lap: who follows a shorter one changes the link as fast as that can be done
_LONGEST_S = 7 * 86400.0  # of a recording; what says more has stamps of another kind


@dataclass(frozen=True, slots=True)
class Trace:
    """A rate over time: ``rates_bps[i]`` from ``times_s[i]`` until the next time, the last one until ``duration_s``.

    Begins at 0 s and loops at its end. A rate of 0 is an outage.
    """

    times_s: tuple[float, ...]
    rates_bps: tuple[float, ...]
    duration_s: float

    def __post_init__(self) -> None:
        if not self.times_s or len(self.times_s) != len(self.rates_bps):
            raise ValueError(f"a trace needs a rate a time: {len(self.times_s)} times, {len(self.rates_bps)} rates")
        ends = (*self.times_s[1:], self.duration_s)
        if self.times_s[0] != 0 or not all(a < b for a, b in zip(self.times_s, ends, strict=True)):
            raise ValueError("a trace's times begin at 0 s and rise until its duration")
        if self.duration_s < _LEAST_S:
            raise ValueError(f"a trace lasts {_LEAST_S:g} s at least, not {self.duration_s:g}")
        if not (math.isfinite(self.duration_s) and all(math.isfinite(rate) and rate >= 0 for rate in self.rates_bps)):
            raise ValueError("a trace's rates and duration are finite, and no rate is below 0")

    def rate_at(self, time_s: float) -> float:
        """Bits per second at a time, which may lie beyond the end: the trace loops."""
        return self.rates_bps[bisect.bisect_right(self.times_s, time_s % self.duration_s) - 1]

    def __iter__(self) -> Iterator[tuple[float, float]]:
        """(time in s, bits per second) of each step, once through."""
        return zip(self.times_s, self.rates_bps, strict=True)

    def looped(self) -> Iterator[tuple[float, float]]:
        """The steps again and again, with times that go on rising. Endless."""
        for lap in itertools.count():
            for time_s, rate_bps in self:
                yield lap * self.duration_s + time_s, rate_bps

    def mean_bps(self) -> float:
        """Mean over time."""
        ends = (*self.times_s[1:], self.duration_s)
        return (
            sum((b - a) * rate for a, b, rate in zip(self.times_s, ends, self.rates_bps, strict=True)) / self.duration_s
        )

    def scaled(self, factor: float) -> Trace:
        """Every rate times ``factor``."""
        return Trace(self.times_s, tuple(rate * factor for rate in self.rates_bps), self.duration_s)


def load_trace(path: str | Path, *, column: Literal["UL_bitrate", "DL_bitrate"] = "UL_bitrate") -> Trace:
    """A recording in whichever of the three formats it is in.

    ``.csv`` is UCC's, of which ``column`` is taken; one column is mahimahi's, two are seconds and Mbit/s.

    Raises:
        ValueError: the file is in none of them; the message names the line.
        OSError: it cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() == ".csv":
        return load_ucc(path, column=column)
    columns = len(next((line for _, line in _lines(path)), "").split())
    return load_mahimahi(path) if columns == 1 else load_seconds_mbit(path)


def load_mahimahi(path: str | Path, *, step_s: float = 1.0) -> Trace:
    """One line an opportunity to send 1500 bytes: whole milliseconds since the start, rising. Averaged over ``step_s``.

    Raises:
        ValueError: another format, or a step below 1 ms.
    """
    if not (math.isfinite(step_s) and step_s >= 1e-3):
        raise ValueError(f"a step must be at least 0.001 s, the clock's own, not {step_s}")
    stamps_s: list[float] = []
    for place, line in _lines(Path(path)):
        if not (line.isascii() and line.isdecimal() and len(line) <= 18):
            raise ValueError(f"{place}: expected whole milliseconds, got {line!r}")
        stamps_s.append(int(line) / 1000)
        if len(stamps_s) > 1 and stamps_s[-1] < stamps_s[-2]:
            raise ValueError(f"{place}: {line} ms comes after a later time")
        if stamps_s[-1] > _LONGEST_S:
            raise ValueError(f"{place}: {line} ms since the start is longer than any recording, {_LONGEST_S:.0f} s")
    duration_s = stamps_s[-1] if stamps_s else 0.0
    if duration_s <= 0:
        raise ValueError(f"{path}: expected at least one line above 0 ms")
    if duration_s / step_s > _MOST_STEPS:
        raise ValueError(f"{path}: {duration_s:g} s in steps of {step_s:g} s are more than {_MOST_STEPS} steps")
    count = max(1, round(duration_s / step_s))  # less than half a step left at the end belongs to the last
    packets = [0] * count
    for stamp_s in stamps_s:
        packets[min(int(stamp_s / step_s), count - 1)] += 1
    times_s = [i * step_s for i in range(count)]
    ends_s = (*times_s[1:], duration_s)
    rates = (n * _MAHIMAHI_PACKET_BYTES * 8 / (b - a) for n, a, b in zip(packets, times_s, ends_s, strict=True))
    return Trace(tuple(times_s), tuple(rates), duration_s)


def load_seconds_mbit(path: str | Path) -> Trace:
    """Lines of seconds and Mbit/s (Pensieve's, the Norwegian 3G set): each rate holds until the next line.

    The last rate holds as long as the median step.

    Raises:
        ValueError: another format.
    """
    samples = []
    for place, line in _lines(Path(path)):
        words = line.split()
        try:
            time_s, mbit = map(float, words)
        except ValueError:
            raise ValueError(f"{place}: expected seconds and Mbit/s, got {line!r}") from None
        samples.append((place, time_s, mbit * 1e6))
    return _from_samples(path, samples)


def load_ucc(path: str | Path, *, column: Literal["UL_bitrate", "DL_bitrate"]) -> Trace:
    """A CSV of University College Cork's 4G and 5G sets: kbit/s in ``column``, about one row a second.

    Their ``UL_bitrate`` of a download is the traffic of acknowledgements, not a capacity: look at what was recorded.
    Rows in a row that repeat a second are averaged. (Raca et al., Beyond Throughput, the Next Generation, MMSys 2020.)

    Raises:
        ValueError: another format.
    """
    seconds: dict[float, list[float]] = {}
    places: dict[float, str] = {}
    lines = list(_lines(Path(path)))
    table = csv.reader(line for _, line in lines)
    header = next(_rows(table, path), [])
    if not {"Timestamp", column} <= set(header):
        raise ValueError(f"{path}: expected the columns Timestamp and {column}, got {', '.join(header)[:200]}")
    stamp_at, rate_at = header.index("Timestamp"), header.index(column)
    for row in _rows(table, path):
        place = lines[table.line_num - 1][0]  # the last line of the row: a quoted field may hold several
        try:
            stamp = datetime.strptime(row[stamp_at], "%Y.%m.%d_%H.%M.%S")
            rate_bps = float(row[rate_at]) * 1e3
        except (ValueError, IndexError):
            raise ValueError(f"{place}: expected a time such as 2019.12.16_13.40.04 and kbit/s, got {row}") from None
        time_s = (stamp - datetime(2000, 1, 1)).total_seconds()
        if seconds and time_s < (last_s := next(reversed(seconds))):
            raise ValueError(f"{place}: {row[stamp_at]} comes {last_s - time_s:g} s before an earlier row")
        seconds.setdefault(time_s, []).append(rate_bps)
        places.setdefault(time_s, place)
    return _from_samples(path, [(places[time_s], time_s, statistics.fmean(seconds[time_s])) for time_s in seconds])


def _from_samples(path: str | Path, samples: list[tuple[str, float, float]]) -> Trace:
    if len(samples) < 2:
        raise ValueError(f"{path}: expected at least two samples, got {len(samples)}")
    for (_, before_s, _), (place, time_s, _) in itertools.pairwise(samples):
        if not time_s > before_s:
            raise ValueError(f"{place}: {time_s} s does not come after {before_s} s")
    for place, _, rate_bps in samples:
        if not (math.isfinite(rate_bps) and rate_bps >= 0):
            raise ValueError(f"{place}: {rate_bps} bit/s is no rate")
    start_s = samples[0][1]
    if not samples[-1][1] - start_s <= _LONGEST_S:
        raise ValueError(f"{samples[-1][0]}: {samples[-1][1]} s is longer after the start than any recording")
    times_s = tuple(time_s - start_s for _, time_s, _ in samples)
    last_step_s = statistics.median(b - a for a, b in itertools.pairwise(times_s))
    return Trace(times_s, tuple(rate_bps for _, _, rate_bps in samples), times_s[-1] + last_step_s)


def _rows(table: Iterator[list[str]], path: str | Path) -> Iterator[list[str]]:
    try:
        yield from table
    except csv.Error as wrong:
        raise ValueError(f"{path}: no CSV: {wrong}") from None


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """(place for an error message, text) of every line that is not empty."""
    if path.stat().st_size > _LARGEST_FILE_BYTES:
        raise ValueError(f"{path}: larger than {_LARGEST_FILE_BYTES >> 20} MiB")
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if text := line.strip():
                yield f"{path}, line {number}", text
