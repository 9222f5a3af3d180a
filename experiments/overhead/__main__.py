"""What does our call cost over loopback, against a plain socket and against ordinary protobuf services?

``python -m experiments.overhead --quick --json FILE``. Six ways to hand a float32 tensor to another process and get
1 KB back, each with a server process of its own on 127.0.0.1, interleaved round by round in one run, so that a busy
machine is busy for all of them. ``overhead_ways`` has both ends of each.

    socket      blocking TCP, a length and the bytes, received into a fresh buffer: what the machine can do
    field_sync  grpcio's threaded API both ends, the tensor as a lone protobuf bytes field: no name, shape or dtype
    field       the same with grpcio's asyncio API both ends, as ours: the rival that the aim is about
    message     grpcio asyncio, an ordinary protobuf message that says what ours says: model, id, name, dtype, shape
    unary       GrpcTransport, a call for each request
    stream      GrpcTransport, one stream kept open

CPU milliseconds are those of both processes together, all threads, for one request.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from experiments.machine import machine
from experiments.overhead.program_setup import set_up_program
from experiments.overhead.ways import WAYS

FIXED_MS, PER_MB_MS = 0.45, 1.2  # the aim: this much over the socket
Samples = dict[int, dict[str, list[tuple[float, float]]]]
"""Wall and CPU seconds of every sample, by size and way."""


async def measure(servers: dict[str, subprocess.Popen[str]], sizes: list[int], rounds: int) -> Samples:
    """Small tensors take eight times the rounds: they cost little, and their differences are small."""
    ports = {way: int(server.stdout.readline()) for way, server in servers.items() if server.stdout}
    senders = {way: near_end(ports[way]) for way, (_, near_end) in WAYS.items()}
    names = list(WAYS)
    samples: Samples = {}
    for size in sizes:
        tensor = torch.randn(size // 4)
        taken = samples[size] = {way: [] for way in names}
        for i in range(-3, rounds * (8 if size < 2**20 else 1)):
            for way in (*names[i % len(names) :], *names[: i % len(names)]):
                cpu_s = time.process_time() + cpu_seconds(servers[way].pid)
                started = time.perf_counter()
                await senders[way](tensor)
                wall_s = time.perf_counter() - started
                cpu_s = time.process_time() + cpu_seconds(servers[way].pid) - cpu_s
                if i >= 0:  # the first ones warm up
                    taken[way].append((wall_s, cpu_s))
        print(f"{size_text(size):>8} measured", file=sys.stderr, flush=True)
    return samples


def cpu_seconds(pid: int) -> float:
    """CPU time of another process; Linux numbers the clock of a process so (clock_getcpuclockid)."""
    return time.clock_gettime(~pid << 3 | 2)


def size_text(size: int) -> str:
    return f"{size // 2**20} MB" if size >= 2**20 else f"{size // 2**10} KB"


def summary(samples: Samples) -> list[dict[str, float]]:
    """One row a size: medians in milliseconds, and how they compare."""
    rows: list[dict[str, float]] = []
    for size, ways in samples.items():
        row: dict[str, float] = {"size_bytes": size, "aim_ms": FIXED_MS + PER_MB_MS * size / 1e6}
        for way, taken in ways.items():
            row[f"{way}_ms"] = statistics.median(wall_s for wall_s, _ in taken) * 1e3
            row[f"{way}_cpu_ms"] = statistics.median(cpu_s for _, cpu_s in taken) * 1e3
        for way in ("unary", "stream"):
            row[f"{way}_over_socket_ms"] = row[f"{way}_ms"] - row["socket_ms"]
            for rival in ("socket", "field", "message"):
                row[f"{way}_to_{rival}"] = row[f"{way}_ms"] / row[f"{rival}_ms"]
        rows.append(row)
    return rows


def print_table(rows: list[dict[str, float]], about: dict[str, str]) -> None:
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    for title, unit in (("median ms", "ms"), ("CPU ms", "cpu_ms")):
        print(f"{title:>10} " + " ".join(f"{way:>10}" for way in WAYS))
        for row in rows:
            print(
                f"{size_text(int(row['size_bytes'])):>10} " + " ".join(f"{row[f'{way}_{unit}']:10.2f}" for way in WAYS)
            )
    ratios = [f"{way}_to_{rival}" for rival in ("field", "message") for way in ("unary", "stream")]
    over = ["unary_over_socket_ms", "stream_over_socket_ms", "aim_ms"]
    print(
        f"{'':>10} "
        + " ".join(f"{name.replace('_to_', '/'):>14}" for name in ratios)
        + "   ms over socket: unary, stream, aim"
    )
    for row in rows:
        print(
            f"{size_text(int(row['size_bytes'])):>10} "
            + " ".join(f"{row[name]:13.2f}x" for name in ratios)
            + "   "
            + " ".join(f"{row[name]:8.2f}" for name in over)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="What our call costs over loopback")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and rounds, about fifteen seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    arguments = parser.parse_args()
    set_up_program()
    sizes = [2**10, 2**16, 2**20, 2**22, 2**24] if arguments.quick else [2**n for n in range(10, 25)]
    rounds = 25 if arguments.quick else 100
    servers = {way: start_server(way) for way in WAYS}
    try:
        samples = asyncio.run(measure(servers, sizes, rounds))
    finally:
        for server in servers.values():
            server.terminate()
            server.communicate(timeout=10)
    loop = asyncio.get_event_loop_policy().__class__.__module__.partition(".")[0]
    rows, about = summary(samples), machine() | {"event_loop": loop}
    print_table(rows, about)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": about, "rounds": rounds, "rows": rows}, indent=1) + "\n")


def start_server(way: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "experiments.overhead.ways", way]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


if __name__ == "__main__":
    main()
