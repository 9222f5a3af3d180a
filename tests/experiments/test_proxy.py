"""The proxy in front of real sockets. Bounds on time are wide: only an order of magnitude is tested here."""

import asyncio
import contextlib
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

import pytest

from experiments.emulation.proxy import link_proxy, split_address
from experiments.emulation.steered_proxy import SteeredProxy

PAYLOAD = bytes(range(256)) * 512  # 128 KiB


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


@contextlib.asynccontextmanager
async def echo_server() -> AsyncIterator[str]:
    """Sends back what comes, until the peer's end; then ends too."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def echoed(address: str, payload: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*split_address(address))
    writer.write(payload)
    writer.write_eof()
    answer = await reader.read(-1)
    writer.close()
    await writer.wait_closed()
    return answer


def test_bytes_and_the_end_of_a_stream_pass_unchanged_for_many_connections() -> None:
    async def test() -> None:
        async with echo_server() as server, link_proxy(server, up_bps=50e6, down_bps=50e6, rtt_s=0.01) as proxy:
            answers = await asyncio.gather(*(echoed(proxy.address, bytes([i]) + PAYLOAD) for i in range(6)))
            assert answers == [bytes([i]) + PAYLOAD for i in range(6)]
            assert proxy.accepted == 6
            assert proxy.passed_bytes("up") == 6 * (len(PAYLOAD) + 1)

    run(test())


def test_each_direction_has_its_own_rate_and_the_round_trip_is_paid() -> None:
    async def test() -> None:
        async with echo_server() as server, link_proxy(server, up_bps=2e6, down_bps=50e6, rtt_s=0.1) as proxy:
            started_s = time.monotonic()
            assert await echoed(proxy.address, PAYLOAD) == PAYLOAD
            took_s = time.monotonic() - started_s
            least_s = 0.1 + 0.1 + len(PAYLOAD) * 8 * 1514 / 1448 / 2e6  # handshake, round trip, bytes
            assert 0.95 * least_s < took_s < 3 * least_s

    run(test())


def test_a_new_rate_holds_for_a_connection_that_exists() -> None:
    async def test() -> None:
        async with echo_server() as server, link_proxy(server, up_bps=0.2e6, down_bps=50e6) as proxy:
            transfer = asyncio.create_task(echoed(proxy.address, PAYLOAD))  # 5.5 s at this rate
            while proxy.passed_bytes("up") < 3000:
                await asyncio.sleep(0.01)
            changed_s = time.monotonic()
            proxy.set(up_bps=100e6)
            assert await transfer == PAYLOAD
            assert time.monotonic() - changed_s < 2.5

    run(test())


def test_a_black_hole_passes_nothing_keeps_connections_and_heals() -> None:
    async def test() -> None:
        async with echo_server() as server, link_proxy(server, up_bps=50e6, down_bps=50e6) as proxy:
            reader, writer = await asyncio.open_connection(*split_address(proxy.address))
            writer.write(b"before")
            assert await reader.readexactly(6) == b"before"
            proxy.block()
            writer.write(b"during")
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(reader.readexactly(6), 0.3)
            proxy.heal()
            assert await reader.readexactly(6) == b"during"
            writer.close()
            await writer.wait_closed()

    run(test())


def test_a_black_hole_hides_that_the_server_reset_the_connection() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setblocking(False)
            async with link_proxy(f"127.0.0.1:{server.getsockname()[1]}", up_bps=50e6, down_bps=50e6) as proxy:
                reader, writer = await asyncio.open_connection(*split_address(proxy.address))
                served, _ = await loop.sock_accept(server)
                proxy.block()
                served.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                served.close()  # with a reset
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(reader.read(1), 0.3)
                proxy.heal()
                with pytest.raises(ConnectionResetError):
                    await reader.readexactly(1)
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()

    run(test())


def test_abort_resets_what_is_open_and_serves_what_comes() -> None:
    async def test() -> None:
        async with echo_server() as server, link_proxy(server, up_bps=50e6, down_bps=50e6) as proxy:
            reader, writer = await asyncio.open_connection(*split_address(proxy.address))
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            await proxy.abort()
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            assert await echoed(proxy.address, b"y") == b"y"

    run(test())


def test_a_target_that_is_not_there_resets_the_connection() -> None:
    async def test() -> None:
        async with echo_server() as gone:
            pass
        async with link_proxy(gone, up_bps=50e6, down_bps=50e6) as proxy:
            with pytest.raises(ConnectionError):
                await echoed(proxy.address, b"x")

    run(test())


def test_flip_changes_one_bit_once() -> None:
    async def test() -> None:
        async with echo_server() as server, link_proxy(server, up_bps=50e6, down_bps=50e6) as proxy:
            proxy.flip("up")
            answer = await echoed(proxy.address, b"\0" * 100)
            assert len(answer) == 100
            assert sum(byte.bit_count() for byte in answer) == 1
            assert await echoed(proxy.address, b"\0" * 100) == b"\0" * 100

    run(test())


@pytest.fixture
def proxy() -> Iterator[SteeredProxy]:
    with SteeredProxy("127.0.0.1:1", link="2Mbps:20Mbps/40ms") as proxy:
        yield proxy


def test_the_process_says_its_port_obeys_and_counts(proxy: SteeredProxy) -> None:
    async def test() -> None:
        async with echo_server() as server:
            with SteeredProxy(server, link="50Mbps/5ms") as proxy:
                assert await echoed(proxy.address, PAYLOAD) == PAYLOAD
                assert proxy.count() == {"up_bytes": len(PAYLOAD), "down_bytes": len(PAYLOAD), "connections": 1}

    run(test())
    assert split_address(proxy.address)[1] > 0
    proxy.set(rate="5Mbps", rtt="10ms")
    proxy.block()
    proxy.heal()
    proxy.abort()
    proxy.flip("down")


def test_a_wrong_command_is_answered_with_an_error_and_the_process_lives(proxy: SteeredProxy) -> None:
    with pytest.raises(RuntimeError, match="no rate"):
        proxy.set(rate="fast")
    with pytest.raises(RuntimeError, match="no such command"):
        proxy.ask({"do": "dance"})
    assert proxy.count()["connections"] == 0


def test_a_port_in_use_is_one_clear_line(proxy: SteeredProxy) -> None:
    with pytest.raises(RuntimeError, match=r"status 2.*[Aa]ddress already in use"):
        SteeredProxy("127.0.0.1:1", link="2Mbps", listen=proxy.address)


@pytest.mark.parametrize(("link", "message"), [("fast", "no rate"), ("1Mbps/soon", "no time"), ("0Mbps", "above 0")])
def test_a_wrong_link_is_one_clear_line(link: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=f"status 2.*{message}"):
        SteeredProxy("127.0.0.1:1", link=link)


def test_the_process_ends_with_its_standard_input() -> None:
    command = [sys.executable, "-m", "experiments.emulation.proxy", "--target", "127.0.0.1:1", "--rate", "1Mbps"]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith('{"ready": "127.0.0.1:')
