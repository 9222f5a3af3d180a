"""The front door of a program: its port, its health, and the last answers when it is told to stop."""

from __future__ import annotations

import logging
import time

from grpc_health.v1 import health_pb2

from splitnn.runtime.address import parse_address
from splitnn.transport.arrivals import Arrivals
from splitnn.transport.base import DEFAULT_LIMITS, Limits, Reporter, Service
from splitnn.transport.open_inference import OPEN_INFERENCE
from splitnn.transport.server import build_server, listen

_log = logging.getLogger(__name__)
_LINGER_S = 2.0  # for the refusals after the grace; a health check that watches is cut then
_STATUS = {True: health_pb2.HealthCheckResponse.SERVING, False: health_pb2.HealthCheckResponse.NOT_SERVING}
_OURS = ("", OPEN_INFERENCE)  # the names that clients of grpc.health.v1 ask for


class Door:
    """A bound gRPC server. Alive from ``open`` on, SERVING once ``tell`` said so; ``shut`` lets what arrived finish.

    Raises:
        Unavailable: the port is in use, or the address is not this machine's.
    """

    def __init__(self, service: Service, address: str, *, reporter: Reporter, limits: Limits = DEFAULT_LIMITS) -> None:
        self._arrivals = Arrivals()
        self._server, self._checks = build_server(
            service, reporter=reporter, limits=limits, interceptors=[self._arrivals]
        )
        host, _ = parse_address(address)
        self.address = f"{host}:{listen(self._server, address)}"
        """Where it listens: port 0 has become one."""

    async def open(self) -> None:
        """Answer from now on, as NOT_SERVING at first."""
        await self.tell(*_OURS, serves=False)
        await self._server.start()

    async def tell(self, *names: str, serves: bool) -> None:
        """The health under these names; under the server's own when there are none."""
        for name in names or _OURS:
            await self._checks.set(name, _STATUS[serves])

    async def shut(self, grace_s: float) -> bool:
        """Let requests finish that had arrived; True when all were answered, and their answers sent, within the grace.

        To be told before: the service, so that it expects no more.
        """
        until_s = time.monotonic() + grace_s
        _log.info("shutting down: requests under way get %.1f s", grace_s)
        await self._checks.enter_graceful_shutdown()
        is_done = await self._arrivals.settle(max(0.0, until_s - time.monotonic()))
        if not is_done:
            _log.warning("requests were still under way after %.1f s; they fail", grace_s)
        return is_done

    async def close(self) -> None:
        """End every connection; without ``shut``, what is under way fails after a moment."""
        await self._server.stop(_LINGER_S)
