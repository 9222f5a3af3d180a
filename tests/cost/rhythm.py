"""An agent's rhythm of requests, pings and probes on a link with jitter, on a virtual clock."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable

from splitnn.cost.bandwidth import LinkEstimator
from splitnn.cost.network import Link, parse_link

_PACKET_BYTES = 1448
_PROBE_BYTES = 131_072
_TRAINS_APART_S = 8.0


class JitteryLink:
    """Each packet is up to ``jitter_s`` early or late, and none overtakes another, as in the emulation's relay."""

    def __init__(self, link: str, *, jitter_s: float, seed: int) -> None:
        self.up, self.down = parse_link(link)
        self.jitter_s = jitter_s
        self.chance = random.Random(seed)

    def seconds(self, sent_bytes: int, received_bytes: int = 8) -> float:
        return self._one_way(self.up, sent_bytes) + self._one_way(self.down, received_bytes)

    def typical_seconds(self, sent_bytes: int, received_bytes: int = 8) -> float:
        return statistics.median(self.seconds(sent_bytes, received_bytes) for _ in range(30))

    def _one_way(self, way: Link, size_bytes: int) -> float:
        due_s = -math.inf
        for end in (*range(_PACKET_BYTES, size_bytes, _PACKET_BYTES), size_bytes):
            due_s = max(due_s, way.transfer_seconds(end) + self.chance.uniform(-self.jitter_s, self.jitter_s))
        return due_s


class Rhythm:
    """Sends requests; pings every 2 s, or every 0.3 s while the estimator is unsettled; probes what is in doubt."""

    def __init__(self, link: JitteryLink, *, guess: str = "5Mbps/50ms", is_probing: bool = True) -> None:
        self.link = link
        self.now_s = 100.0
        self.estimator = LinkEstimator(parse_link(guess), clock=lambda: self.now_s)
        self._is_probing = is_probing
        self._next_ping_s = self._next_train_s = self.now_s

    def run(self, requests: int, mix: Callable[[], tuple[int, int]], *, far_s: float = 0.03) -> None:
        """``mix`` says how many bytes the next request and its answer have."""
        for _ in range(requests):
            if self.now_s >= self._next_ping_s:
                self._look()
            sent_bytes, received_bytes = mix()
            elapsed_s = self._pass(self.link.seconds(sent_bytes, received_bytes) + far_s)
            self.estimator.observe(sent_bytes, elapsed_s, received_bytes=received_bytes, far_s=far_s)
            self.now_s += self.link.chance.uniform(0.0, 0.3)

    def predicted_seconds(self, sent_bytes: int, received_bytes: int = 8) -> float:
        up, down = self.estimator.links()
        return up.transfer_seconds(sent_bytes) + down.transfer_seconds(received_bytes)

    def error(self, sent_bytes: int, received_bytes: int = 8) -> float:
        """Of the predicted seconds, as a share of what such a transfer typically takes."""
        typical_s = self.link.typical_seconds(sent_bytes, received_bytes)
        return abs(self.predicted_seconds(sent_bytes, received_bytes) / typical_s - 1)

    def rate_error(self) -> float:
        return abs(self.estimator.bandwidth_bps() / self.link.up.bandwidth_bps - 1)

    def _look(self) -> None:
        self.estimator.observe_round_trip(self._pass(self.link.seconds(8)))
        in_doubt = self.estimator.is_bound or self.estimator.age_s > 5.0
        if self._is_probing and in_doubt and self.now_s >= self._next_train_s:
            for size_bytes in (512, 8192, *[_PROBE_BYTES] * 3):
                self.estimator.observe_probe(size_bytes, self._pass(self.link.seconds(size_bytes)))
            self._next_train_s = self.now_s + _TRAINS_APART_S
        self._next_ping_s = self.now_s + (0.3 if self.estimator.is_unsettled else 2.0)

    def _pass(self, seconds: float) -> float:
        self.now_s += seconds
        return seconds
