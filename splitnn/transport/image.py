"""Image codecs for a uint8 tensor of shape (N, H, W, 3) or, in grey, (N, H, W, 1): what a user would send instead."""

from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from splitnn.errors import CodecError
from splitnn.graph.graph import TensorSpec
from splitnn.transport.layout import Layout, Payload, name_of

_LENGTH = struct.Struct("<I")
_MAX_SIDE = 16384


@dataclass(frozen=True, slots=True)
class ImageCodec:
    """Every image of the batch as one PNG, JPEG or WebP file, each after its length (uint32, little-endian)."""

    name: str
    format: Literal["PNG", "JPEG", "WEBP"]
    quality: int = 0  # 1 to 100; 0 is lossless
    chroma: Literal["half", "full"] = "half"  # resolution of a JPEG's colours
    size_is_exact: bool = False

    @property
    def lossless(self) -> bool:
        return self.quality == 0

    def accepts(self, spec: TensorSpec) -> bool:
        return spec.dtype == "uint8" and _is_image(spec.shape)

    def encoded_bytes(self, spec: TensorSpec) -> int:
        """Far above what photos take: a profile has the measured size."""
        count, height, width, channels = spec.shape
        if self.format == "PNG":
            plain = height * (channels * width + 1)
            return count * (plain + plain // 256 + 1024)
        if self.lossless:  # WebP: symbols of at most 15 bits, four a pixel, and their codes
            return count * (8 * height * width + 4096)
        # Standard Huffman tables, whole 16x16 blocks: noise stays below 3 bytes a number.
        numbers = 4 if self.chroma == "full" else 2
        return count * (3 * numbers * (height + 15) * (width + 15) + 2048)

    def encode(self, tensor: torch.Tensor) -> Payload:
        from PIL import Image

        if not self.accepts(TensorSpec(tuple(tensor.shape), name_of(tensor.dtype))):
            raise CodecError(
                f"codec {self.name} takes uint8 (N, H, W, 3 or 1), not {tensor.dtype} {tuple(tensor.shape)}"
            )
        _check_dense(Layout.of(tensor))
        parts: list[bytes] = []
        mode = self._mode(tensor.shape[3])
        for pixels in tensor.detach().cpu().contiguous():  # (H, W, 3 or 1)
            image = Image.fromarray((pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).numpy())
            if image.mode != mode:
                image = image.convert(mode)
            file = io.BytesIO()
            image.save(file, self.format, **self._options())
            parts += (_LENGTH.pack(file.tell()), file.getvalue())
        return b"".join(parts)

    def _options(self) -> dict[str, Any]:
        match self.format:
            case "PNG":
                return {"compress_level": 4}  # half the time of 6, for one more byte in a hundred
            case "JPEG":
                return {"quality": self.quality, "subsampling": "4:4:4" if self.chroma == "full" else "4:2:0"}
            case "WEBP":
                return {"lossless": True} if self.lossless else {"quality": self.quality}

    def decode(
        self, payload: Payload, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] = ()
    ) -> torch.Tensor:
        if dtype != "uint8" or not _is_image(shape):
            raise CodecError(f"codec {self.name} gives uint8 (N, H, W, 3 or 1), not {dtype} {shape}")
        _check_dense(Layout(shape, strides))
        files = self._files(payload, shape[0])
        images = torch.empty(shape, dtype=torch.uint8)
        for image, file in zip(images.numpy(), files, strict=True):  # (H, W, 3 or 1)
            image[:] = self._pixels(file, shape[1:])
        return torch.empty_strided(shape, strides, dtype=torch.uint8).copy_(images) if strides else images

    def _files(self, payload: Payload, count: int) -> list[memoryview]:
        """Each image's file; nobody has looked into them."""
        rest, files = memoryview(payload), []
        for _ in range(count):
            if len(rest) < _LENGTH.size or len(rest) - _LENGTH.size < (length := _LENGTH.unpack_from(rest)[0]):
                raise CodecError(f"a {self.name} payload of {len(payload)} bytes ends before its {count} images do")
            files.append(rest[_LENGTH.size : _LENGTH.size + length])
            rest = rest[_LENGTH.size + length :]
        if rest:
            raise CodecError(f"a {self.name} payload has {len(rest)} bytes after its {count} images")
        return files

    def _mode(self, channels: int) -> str:
        return "RGB" if channels == 3 or self.format == "WEBP" else "L"  # WebP knows colours only

    def _pixels(self, file: memoryview, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """One image of (height, width, channels), to be read only."""
        from PIL import Image

        height, width, channels = shape
        mode = self._mode(channels)
        try:
            with Image.open(io.BytesIO(file), formats=(self.format,)) as image:  # reads the header only
                if image.size != (width, height) or image.mode != mode:
                    raise CodecError(f"{image.size} {image.mode} came where a ({width}, {height}) {mode} image belongs")
                wanted = "RGB" if channels == 3 else "L"
                return np.asarray(image if mode == wanted else image.convert(wanted)).reshape(shape)
        except CodecError:
            raise
        except Exception as error:  # Pillow raises many kinds on a broken file
            raise CodecError(f"not a whole {self.format} image: {error}") from error


def decoding_bytes(layout: Layout) -> int:
    """Memory beside the tensor that decoding takes: one image as Pillow holds it, and as bytes."""
    return 12 * math.prod(layout.shape[1:3])


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[3] in (1, 3) and all(1 <= side <= _MAX_SIDE for side in shape[1:3])


def _check_dense(layout: Layout) -> None:
    if layout.span != layout.elements or layout.overlaps:
        raise CodecError(f"image codecs take tensors without gaps or repeats, not strides {layout.strides}; use raw")
