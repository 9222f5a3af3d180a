"""Decoders against whatever may arrive: a tensor as described, or a CodecError, within the memory that limits count."""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap
import tracemalloc
from collections.abc import Iterator

import lz4.block
import pytest
import torch
import zstandard

from splitnn.errors import CodecError
from splitnn.graph.graph import DTYPE_BYTES, TensorSpec
from splitnn.transport.codec import CODECS, working_bytes
from splitnn.transport.layout import Layout, name_of

FEATURES = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(3)).relu()
SYMBOLS = (FEATURES * 3).round().to(torch.int8)
IMAGE = (torch.arange(2 * 16 * 12 * 3) % 251).to(torch.uint8).view(2, 16, 12, 3)
SMALL_BYTES = 300_000  # what interpreter, Pillow and error messages may take besides


def _tensor_for(name: str) -> torch.Tensor:
    for tensor in (FEATURES, SYMBOLS, IMAGE):
        if CODECS[name].accepts(TensorSpec(tuple(tensor.shape), name_of(tensor.dtype))):
            return tensor
    raise AssertionError(name)


def _decoded(name: str, payload: bytes, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] = ()) -> bool:
    """Whether it became a tensor, which then is as described."""
    try:
        found = CODECS[name].decode(payload, shape, dtype, strides)
    except CodecError:
        return False
    assert tuple(found.shape) == shape
    assert name_of(found.dtype) == dtype
    assert not strides or not found.numel() or tuple(found.stride()) == strides
    return True


def _altered(payload: bytes, chance: random.Random) -> Iterator[bytes]:
    for _ in range(5):
        yield payload[: chance.randrange(len(payload))]
        yield payload + chance.randbytes(chance.randrange(1, 9))
        flipped = bytearray(payload)
        for _ in range(chance.randrange(1, 9)):
            flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
        yield bytes(flipped)
        lying = bytearray(payload)  # counts, lengths and ranges stand in front
        start = chance.randrange(min(16, len(lying)))
        lying[start : start + 4] = chance.choice((b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", b"\0\0\x80\x7f"))
        yield bytes(lying[: len(payload)])
        start = chance.randrange(len(payload))
        yield payload[:start] + payload[start + chance.randrange(1, 9) :]
        yield chance.randbytes(len(payload))


@pytest.mark.parametrize("name", list(CODECS))
def test_altered_payload_becomes_a_tensor_as_described_or_a_codec_error(name: str) -> None:
    seed = random.randrange(2**31)
    print(f"seed {seed}")
    tensor = _tensor_for(name)
    payload = bytes(CODECS[name].encode(tensor))
    assert _decoded(name, payload, tuple(tensor.shape), name_of(tensor.dtype))
    for each in _altered(payload, random.Random(seed)):
        _decoded(name, each, tuple(tensor.shape), name_of(tensor.dtype))


@pytest.mark.parametrize("name", list(CODECS))
def test_payload_of_another_codec_becomes_a_tensor_as_described_or_a_codec_error(name: str) -> None:
    for other in (
        "raw",
        "zstd",
        "lz4",
        "mask",
        "fp16",
        "fp16+shuffle+zstd",
        "int8",
        "int8+zstd",
        "int4",
        "even4",
        "png",
        "jpeg90",
    ):
        tensor = _tensor_for(other)
        payload = bytes(CODECS[other].encode(tensor))
        for asked in (tensor, _tensor_for(name)):
            _decoded(name, payload, tuple(asked.shape), name_of(asked.dtype))


@pytest.mark.parametrize("name", list(CODECS))
def test_payload_under_another_description_becomes_a_tensor_as_described_or_a_codec_error(name: str) -> None:
    seed = random.randrange(2**31)
    print(f"seed {seed}")
    chance = random.Random(seed)
    tensor = _tensor_for(name)
    shape, dtype = tuple(tensor.shape), name_of(tensor.dtype)
    payload = bytes(CODECS[name].encode(tensor))
    for other in (*DTYPE_BYTES, "nonsense"):
        _decoded(name, payload, shape, other)
    shapes = [
        (),
        (0,),
        (1,),
        shape[1:],
        (1, *shape),
        shape[::-1],
        (*shape[:-1], 0),
        (2**15, 2**15, 0),
        (-1, *shape[1:]),
    ]
    shapes += [tuple(chance.choice((0, 1, 2, 3, 5, 6)) for _ in range(chance.randrange(6))) for _ in range(20)]
    for each in shapes:
        _decoded(name, payload, each, dtype)
    for _ in range(20):
        strides = tuple(chance.choice((0, 1, 2, 5, 30, 90, 10**6, -1)) for _ in range(chance.choice((4, 4, 3))))
        if sum(size * stride for size, stride in zip(shape, strides, strict=False)) < 10**5:
            _decoded(name, payload, shape, dtype, strides)


@pytest.mark.parametrize("name", list(CODECS))
def test_claims_of_a_large_tensor_take_no_more_memory_than_limits_count(name: str) -> None:
    is_image = _tensor_for(name) is IMAGE
    dtype = name_of(_tensor_for(name).dtype)
    shape = (1, 512, 700, 3) if is_image else (1, 16, 128, 128)
    limit = Layout(shape).elements * DTYPE_BYTES[dtype] + working_bytes(name, Layout(shape), dtype) + SMALL_BYTES
    small = bytes(CODECS[name].encode(_tensor_for(name)))
    zeros = bytes(CODECS[name].encode(torch.zeros(shape, dtype=getattr(torch, dtype))))
    claims = [b"", b"\0", small, zeros, zeros[: len(zeros) // 2], b"\xff" * 100, bytes(len(zeros))]
    for _ in range(2):  # what is made once is not counted
        tracemalloc.start()
        try:
            for payload in claims:
                _decoded(name, payload, shape, dtype)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak_bytes <= limit


@pytest.mark.parametrize("name", [name for name in CODECS if "zstd" in name or "fast" in name])
def test_frame_that_states_another_size_or_states_it_falsely_is_refused(name: str) -> None:
    tensor = _tensor_for(name)
    shape, dtype = tuple(tensor.shape), name_of(tensor.dtype)
    plain = zstandard.ZstdDecompressor().decompress(bytes(CODECS[name].encode(tensor)))
    for size in (0, 1, len(plain) - 1, 3 * len(plain), 10**7):
        assert not _decoded(name, zstandard.ZstdCompressor().compress(bytes(size)), shape, dtype), size
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(plain)
    assert not _decoded(name, unsized, shape, dtype)
    # A header that states the right size in four bytes, before the blocks of 10 MB of zeros.
    bomb = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(10**7))
    blocks = bomb[zstandard.frame_header_size(bomb) :]
    assert not _decoded(name, b"\x28\xb5\x2f\xfd\xa0" + len(plain).to_bytes(4, "little") + blocks, shape, dtype)


@pytest.mark.parametrize("name", [name for name in CODECS if "lz4" in name])
def test_block_that_states_another_size_or_states_it_falsely_is_refused(name: str) -> None:
    tensor = _tensor_for(name)
    shape, dtype = tuple(tensor.shape), name_of(tensor.dtype)
    plain = lz4.block.decompress(bytes(CODECS[name].encode(tensor)))
    for size in (0, 1, len(plain) - 1, 3 * len(plain), 10**7):
        honest = lz4.block.compress(bytes(size))
        assert not _decoded(name, honest, shape, dtype), size
        assert not _decoded(name, len(plain).to_bytes(4, "little") + honest[4:], shape, dtype), size
    assert not _decoded(name, lz4.block.compress(plain, store_size=False), shape, dtype)


def test_hostile_payloads_are_refused_inside_a_small_address_space() -> None:
    """What C libraries take is not traced: a child that may take 200 MB more than it has."""
    child = textwrap.dedent("""
        import resource, struct, zlib, lz4.block, torch, zstandard, PIL.Image
        from splitnn.errors import CodecError
        from splitnn.transport.codec import CODECS
        torch.set_num_threads(1)
        for name in ("png", "jpeg90", "webp"):  # plug-ins are loaded before memory is short
            image = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
            CODECS[name].decode(bytes(CODECS[name].encode(image)), (1, 8, 8, 3), "uint8")
        for name in ("zstd", "lz4", "even4"):
            CODECS[name].decode(bytes(CODECS[name].encode(torch.zeros(9))), (9,), "float32")
        packed = lz4.block.compress(bytes(10**8))
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20, resource.RLIM_INFINITY))
        def chunk(kind, data):
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        def png(width, height):
            head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            body = chunk(b"IDAT", zlib.compress(bytes(3 * 10**7))) + chunk(b"IEND", b"")
            file = b"\\x89PNG\\r\\n\\x1a\\n" + head + body
            return struct.pack("<I", len(file)) + file
        bomb = zstandard.ZstdCompressor().compress(bytes(10**8))
        wide = bytes.fromhex("28b52ffd") + bytes([0x80, 0xa8]) + struct.pack("<I", 36) + b"\\1\\0\\0"
        refused = 0
        for name, payload, shape, dtype in [
            ("zstd", bomb, (9,), "float32"), ("zstd", wide, (9,), "float32"), ("mask+zstd", bomb, (9,), "float32"),
            ("int8+zstd", bomb, (9,), "float32"), ("fp16+shuffle+zstd", bomb, (9,), "float32"),
            ("int4+zstd", bomb, (9,), "float32"), ("png", png(60000, 60000), (1, 8, 8, 3), "uint8"),
            ("png", png(8, 8)[:60], (1, 8, 8, 3), "uint8"), ("webp", png(8, 8), (1, 8, 8, 3), "uint8"),
            ("even4", b"\\xff" * 12, (1, 1, 64, 64), "float32"), ("raw", b"", (2**14, 2**14), "float32"),
            ("int8", b"", (2**14, 2**14), "float32"), ("fp16", b"", (2**14, 2**14), "float32"),
            ("int4", b"", (2**14, 2**14), "float32"), ("mask", b"", (2**14, 2**14), "float32"),
            ("zstd", bomb, (2**14, 2**14), "float32"), ("shuffle+zstd", b"", (2**14, 2**14), "float32"),
            ("lz4", packed, (9,), "float32"), ("int8+lz4", packed, (9,), "float32"),
            ("lz4", (36).to_bytes(4, "little") + packed[4:], (9,), "float32"),
            ("lz4", (2**30).to_bytes(4, "little") + bytes(99), (2**14, 2**14), "float32"),
        ]:
            try:
                CODECS[name].decode(payload, shape, dtype)
            except CodecError:
                refused += 1
            else:
                print("decoded", name, shape)
        print("refused", refused)
    """)
    found = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, timeout=120, check=False)
    assert (found.stdout, found.returncode) == ("refused 21\n", 0), found.stderr[-2000:]
