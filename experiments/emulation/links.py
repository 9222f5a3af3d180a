"""An emulated link between a device's side and a server's side, by the best method that this machine has."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence

from experiments.emulation.namespaces import (
    SERVER_HOST,
    NamespacePair,
    bring_up,
    connect_by_veth,
    namespace_pair,
    netem_command,
    run,
    tbf_command,
    why_not_netem,
    why_not_relay,
)
from experiments.emulation.relay import SteeredRelay
from experiments.emulation.shape import METHODS, EmulatedLink, Method, Shape, Side
from experiments.emulation.steered_proxy import SteeredProxy

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def emulated_link(shape: Shape, *, methods: Sequence[Method] = METHODS, seed: int = 0) -> Iterator[EmulatedLink]:
    """A link by the first of ``methods`` that works here, gone when the context ends. Not calibrated.

    Raises:
        RuntimeError: none of them works; the message says why, each.
    """
    reasons = []
    with contextlib.ExitStack() as stack:
        pair = None
        if set(methods) != {"proxy"}:
            try:
                pair = stack.enter_context(namespace_pair())
            except RuntimeError as missing:
                reasons.append(f"namespaces: {missing}")
        for method in methods:
            reason = _why_not(method, pair, shape)
            if reason is None:
                link = stack.enter_context(_linked(method, pair, shape, seed))
                passed_over = f" (passed over: {'; '.join(reasons)})" if reasons else ""
                logger.info("link %s by %s, which %s%s", shape, link.method, link.cannot, passed_over)
                yield link
                return
            reasons.append(f"{method}: {reason}")
    raise RuntimeError(f"no way to emulate {shape} here; " + "; ".join(reasons))


@contextlib.contextmanager
def proxied_link(shape: Shape) -> Iterator[ProxiedLink]:
    """A link by proxy, for whoever needs what only a proxy can: no privileges, connections that are reset."""
    with contextlib.closing(ProxiedLink(shape)) as link:
        yield link


def _why_not(method: Method, pair: NamespacePair | None, shape: Shape) -> str | None:
    if method == "proxy":
        return "it has no jitter and no loss" if shape.jitter_s or shape.loss else None
    if pair is None:
        return "no namespaces"
    return why_not_netem(pair) if method == "netem" else why_not_relay(pair)


@contextlib.contextmanager
def _linked(method: Method, pair: NamespacePair | None, shape: Shape, seed: int) -> Iterator[EmulatedLink]:
    if method == "proxy" or pair is None:
        with proxied_link(shape) as link:
            yield link
    elif method == "netem":
        connect_by_veth(pair)

        def by_netem(shape: Shape, loss: float) -> None:
            for end, rate_bps in ((pair.device, shape.up_bps), (pair.server, shape.down_bps)):
                latency_s, jitter_s = shape.rtt_s / 2, shape.jitter_s
                run(*netem_command(end, rate_bps, latency_s=latency_s, jitter_s=jitter_s, loss=loss))

        yield NamespacedLink(pair, shape, by_netem, method=method, cannot="reorders packets when it has jitter")
    else:
        with SteeredRelay(pair, seed=seed) as relay:
            bring_up(pair)

            def by_relay(shape: Shape, loss: float) -> None:
                run(*tbf_command(pair.device, shape.up_bps))
                run(*tbf_command(pair.server, shape.down_bps))
                relay.set(
                    up_bps=shape.up_bps,
                    down_bps=shape.down_bps,
                    latency_s=shape.rtt_s / 2,
                    jitter_s=shape.jitter_s,
                    loss=loss,
                )

            cannot = "adds 0.2 to 0.7 ms to a round trip, takes up to 27 % of a core, is good to 100 Mbit/s"
            yield NamespacedLink(pair, shape, by_relay, method=method, cannot=cannot)


class NamespacedLink:
    """A link between two network namespaces. ``apply`` puts a shape in force, with a loss of its own."""

    server_host = SERVER_HOST

    def __init__(
        self,
        pair: NamespacePair,
        shape: Shape,
        apply: Callable[[Shape, float], None],
        *,
        method: Method,
        cannot: str,
    ) -> None:
        self.method = method
        self.cannot = cannot
        self._pair = pair
        self._apply = apply
        self._shape = shape
        self._is_blocked = False
        apply(shape, shape.loss)

    @property
    def shape(self) -> Shape:
        return self._shape

    @property
    def is_blocked(self) -> bool:
        return self._is_blocked

    def namespace(self, side: Side) -> str | None:
        return self._pair.device if side == "device" else self._pair.server

    def address_of(self, port: int) -> str:
        return f"{SERVER_HOST}:{port}"

    def release(self, port: int) -> None:
        """Nothing is kept for a port."""

    def set(self, **changes: float) -> None:
        self._become(dataclasses.replace(self._shape, **changes), is_blocked=self._is_blocked)

    def block(self) -> None:
        self._become(self._shape, is_blocked=True)

    def heal(self) -> None:
        self._become(self._shape, is_blocked=False)

    def _become(self, shape: Shape, *, is_blocked: bool) -> None:
        """Put this in force, or stay what we are: a refusal may come when one end has changed already."""
        try:
            self._apply(shape, 1.0 if is_blocked else shape.loss)
        except BaseException:
            with contextlib.suppress(RuntimeError, OSError):  # the first failure is the one to tell of
                self._apply(self._shape, 1.0 if self._is_blocked else self._shape.loss)
            raise
        self._shape, self._is_blocked = shape, is_blocked


class ProxiedLink:
    """A link made of one TCP proxy a port, without privileges."""

    method: Method = "proxy"
    cannot = (
        "has no loss, jitter or TCP slow start, adds 1 to 2 ms to a round trip, finishes the kernel's handshake at "
        "once, and shares its rate among connections to one port only"
    )
    server_host = "127.0.0.1"

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._proxies: dict[int, SteeredProxy] = {}
        self._is_blocked = False

    @property
    def shape(self) -> Shape:
        return self._shape

    @property
    def is_blocked(self) -> bool:
        return self._is_blocked

    def namespace(self, side: Side) -> str | None:
        return None

    def address_of(self, port: int) -> str:
        if port not in self._proxies:
            link = f"{_rates(self._shape)}/{_round_trip(self._shape)}"
            self._proxies[port] = SteeredProxy(f"{self.server_host}:{port}", link=link)
            if self._is_blocked:
                self._proxies[port].block()
        return self._proxies[port].address

    def release(self, port: int) -> None:
        if (proxy := self._proxies.pop(port, None)) is not None:
            proxy.close()

    def set(self, **changes: float) -> None:
        shape = dataclasses.replace(self._shape, **changes)
        if shape.jitter_s or shape.loss:
            raise ValueError("a link by proxy has no jitter and no loss")
        try:
            self._steer(shape)
        except BaseException:
            with contextlib.suppress(RuntimeError):  # the first failure is the one to tell of
                self._steer(self._shape)
            raise
        self._shape = shape

    def _steer(self, shape: Shape) -> None:
        for proxy in self._proxies.values():
            proxy.set(rate=_rates(shape), rtt=_round_trip(shape))

    def block(self) -> None:
        self._is_blocked = True
        for proxy in self._proxies.values():
            proxy.block()

    def heal(self) -> None:
        self._is_blocked = False
        for proxy in self._proxies.values():
            proxy.heal()

    def abort(self) -> None:
        """Reset every connection, which a link between namespaces cannot."""
        for proxy in self._proxies.values():
            proxy.abort()

    def close(self) -> None:
        for proxy in self._proxies.values():
            proxy.close()


def _rates(shape: Shape) -> str:
    return f"{shape.up_bps:.0f}bps:{shape.down_bps:.0f}bps"


def _round_trip(shape: Shape) -> str:
    return f"{shape.rtt_s * 1e6:.0f}us"
