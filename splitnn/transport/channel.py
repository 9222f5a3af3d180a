"""gRPC set up for tensors: what both ends of every service agree on. Measured reasons stand beside the numbers."""

from __future__ import annotations

import grpc
import grpc.aio

from splitnn.transport.base import DEFAULT_LIMITS, Limits

_HEADROOM_BYTES = 2**16  # for what a message holds beside the payload that somebody sized to fit

Options = list[tuple[str, int]]


def channel_options(limits: Limits = DEFAULT_LIMITS) -> Options:
    """For the near side: bounded messages, a dead link noticed in 5 to 6 s, quick return after it heals."""
    return [
        *_message_sizes(limits),
        ("grpc.keepalive_time_ms", 1000),
        # Also TCP_USER_TIMEOUT, which ends a connection whose far side takes no bytes for so long. A relay in front of
        # 0.25 Mbps opens its window every 4 s: 3000 lost all uploads of 400 KB, 4000 half, 5000 none; packets that
        # vanish are noticed after 5.3 s. Deciding more quickly is the business of a request's deadline.
        ("grpc.keepalive_timeout_ms", 5000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 2000),  # in truth the time that one attempt to connect gets
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.enable_retries", 0),  # who may be asked again is the caller's decision
        ("grpc.use_local_subchannel_pool", 1),  # a transport that is closed takes its connection with it
    ]


def server_options(limits: Limits = DEFAULT_LIMITS) -> Options:
    """For the far side: bounded messages, and no GOAWAY for the near side's keepalive."""
    return [
        *_message_sizes(limits),
        ("grpc.http2.min_ping_interval_without_data_ms", 300),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.keepalive_time_ms", 10_000),  # finds near sides that vanished, so that their requests are cancelled
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.so_reuseport", 0),  # a second server on the port fails instead of taking half of the connections
    ]


def open_channel(
    target: str, *, limits: Limits = DEFAULT_LIMITS, credentials: grpc.ChannelCredentials | None = None
) -> grpc.aio.Channel:
    """A channel to ``host:port``; call it in the event loop that will use it. Connects with the first call."""
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=channel_options(limits))
    return grpc.aio.secure_channel(target, credentials, options=channel_options(limits))


def _message_sizes(limits: Limits) -> Options:
    size = limits.message_bytes + _HEADROOM_BYTES
    return [("grpc.max_send_message_length", size), ("grpc.max_receive_message_length", size)]
