"""A gRPC server with all our services: the one that both programs open their front door with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from splitnn.errors import Unavailable
from splitnn.proto import control_pb2, open_inference_pb2
from splitnn.transport.base import DEFAULT_LIMITS, Limits, Reporter, Service
from splitnn.transport.channel import server_options
from splitnn.transport.control import CONTROL, add_control
from splitnn.transport.open_inference import OPEN_INFERENCE, add_open_inference

Health: Any = health.aio.HealthServicer  # type: ignore[attr-defined]


def build_server(
    service: Service,
    *,
    reporter: Reporter | None = None,
    limits: Limits = DEFAULT_LIMITS,
    interceptors: Sequence[grpc.aio.ServerInterceptor[Any, Any]] = (),
) -> tuple[grpc.aio.Server, Health]:
    """A server with everything but a port: the standard protocol, control (with a reporter), health and reflection.

    The caller adds its ports (``listen``), starts and stops it, and sets the health status, which begins as SERVING.
    """
    server = grpc.aio.server(
        options=server_options(limits), interceptors=list(interceptors), maximum_concurrent_rpcs=limits.calls
    )
    add_open_inference(server, service, limits=limits)
    names = [OPEN_INFERENCE, health.SERVICE_NAME, reflection.SERVICE_NAME]
    if reporter is not None:
        add_control(server, service, reporter, limits=limits)
        names.append(CONTROL)
    checks = Health()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection(names, server, pool=_one_pool())
    return server, checks


def listen(server: grpc.aio.Server, address: str, *, credentials: grpc.ServerCredentials | None = None) -> int:
    """Bind ``host:port`` (port 0: any) and return the port.

    Raises:
        Unavailable: the port is in use, or the address is not this machine's.
    """
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise Unavailable(
            f"cannot listen on {address}: the port is in use or the address is not this host's"
        ) from error
    if port == 0:
        raise Unavailable(f"cannot listen on {address}")
    return port


def _one_pool() -> descriptor_pool.DescriptorPool:
    """All our services in one pool: reflection takes one, and the standard protocol's messages live in their own."""
    pool = descriptor_pool.DescriptorPool()
    for file in (health_pb2, reflection_pb2, control_pb2, open_inference_pb2):
        description = descriptor_pb2.FileDescriptorProto()
        file.DESCRIPTOR.CopyToProto(description)
        pool.Add(description)
    return pool
