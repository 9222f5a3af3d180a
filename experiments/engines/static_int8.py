"""ONNX Runtime's own static quantiser, beside which int8 versions are judged."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from splitnn.graph.code import Callee
from splitnn.runtime.engines.exchange import onnx_model
from splitnn.runtime.engines.onnxruntime import session_call


def int8_call(call: Callee, calibration: Sequence[Sequence[torch.Tensor]]) -> Callee:
    """The piece in int8, for inputs of the shapes of the calibration's; each of those is one set of inputs.

    Raises:
        ModuleNotFoundError: onnxruntime, onnx or onnxscript is not installed.
        ValueError: there is no calibration data.
    """
    return session_call(int8_onnx(call, calibration))


def int8_onnx(call: Callee, calibration: Sequence[Sequence[torch.Tensor]]) -> bytes:
    """The piece as an ONNX model of quantised operators (QDQ), symmetric int8 weights with a scale an output channel.

    Raises:
        ModuleNotFoundError, ValueError: as ``int8_call`` does.
    """
    if not calibration:
        raise ValueError("int8 needs calibration data: inputs from which to take the ranges of activations")
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    model = onnx_model(call, calibration[0])
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            str(path),
            _Feeds(model, calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return path.read_bytes()


class _Feeds:
    """What the quantiser reads its calibration data from."""

    def __init__(self, model: Any, calibration: Sequence[Sequence[torch.Tensor]]) -> None:
        names = [node.name for node in model.graph.input]
        self._feeds = iter(
            [{name: value.numpy() for name, value in zip(names, given, strict=True)} for given in calibration]
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)

    def __iter__(self) -> _Feeds:
        return self

    def __next__(self) -> dict[str, Any]:
        return next(self._feeds)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantiser's advice on the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
