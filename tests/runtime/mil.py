"""What a Core ML package computes, operator by operator as Apple's reference of MIL has them: nothing on Linux runs it.

Knows the operators of a few heads, and nothing of splitnn.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import coremltools as ct
import torch
from coremltools.converters.mil.frontend.milproto.load import load
from torch.nn import functional


def evaluate(package: Path, fed: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The package's outputs by feature, of what it is fed by feature."""
    model = ct.models.MLModel(str(package), skip_model_load=True)
    program = load(model.get_spec(), model.get_spec().specificationVersion, model.weights_dir)
    main = program.functions["main"]
    assert set(main.inputs) == set(fed)
    values: dict[str, Any] = dict(fed)

    def value_of(given: Any) -> Any:
        if isinstance(given, (tuple, list)):
            return [value_of(each) for each in given]
        return values.get(given.name, given.val)

    for each in main.operations:
        if each.op_type == "const":
            values[each.outputs[0].name] = each.outputs[0].val
            continue
        given = {name: value_of(variable) for name, variable in each.inputs.items() if variable is not None}
        (result,) = each.outputs
        made = _OPERATORS[each.op_type](given)
        assert tuple(made.shape) == tuple(result.shape), f"{each.op_type} makes {made.shape}, declared {result.shape}"
        values[result.name] = made
    return {result.name: values[result.name] for result in main.outputs}


def _tensor(value: Any) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else torch.as_tensor(value)


def _ints(value: Any) -> list[int]:
    return [int(each) for each in value]


def _padded(x: torch.Tensor, pad: list[int], value: float) -> torch.Tensor:
    """MIL lists the pairs from the first of the last dimensions on, torch from the last."""
    pairs = [pad[at : at + 2] for at in range(0, len(pad), 2)]
    return functional.pad(x, [size for pair in reversed(pairs) for size in pair], value=value)


def _window(given: Mapping[str, Any], x: torch.Tensor, value: float) -> torch.Tensor:
    if given["pad_type"] == "valid":
        return x
    assert given["pad_type"] == "custom"
    return _padded(x, _ints(given["pad"]), value)


def _conv(given: Mapping[str, Any]) -> torch.Tensor:
    x = _window(given, given["x"], 0.0)
    bias = _tensor(given["bias"]) if "bias" in given else None
    strides, dilations = _ints(given["strides"]), _ints(given["dilations"])
    return functional.conv2d(x, _tensor(given["weight"]), bias, strides, 0, dilations, int(given["groups"]))


def _max_pool(given: Mapping[str, Any]) -> torch.Tensor:
    assert not given["ceil_mode"]
    x = _window(given, given["x"], float("-inf"))
    return functional.max_pool2d(x, _ints(given["kernel_sizes"]), _ints(given["strides"]))


def _pad(given: Mapping[str, Any]) -> torch.Tensor:
    assert given["mode"] == "constant"
    return _padded(given["x"], _ints(given["pad"]), float(given["constant_val"]))


def _matmul(given: Mapping[str, Any]) -> torch.Tensor:
    x, y = _tensor(given["x"]), _tensor(given["y"])
    return (x.mT if given["transpose_x"] else x) @ (y.mT if given["transpose_y"] else y)


def _both(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[[Mapping[str, Any]], Any]:
    return lambda given: function(_tensor(given["x"]), _tensor(given["y"]))


_DTYPES = {"fp32": torch.float32, "int32": torch.int32, "bool": torch.bool}
_OPERATORS: dict[str, Callable[[Mapping[str, Any]], torch.Tensor]] = {
    "conv": _conv,
    "max_pool": _max_pool,
    "pad": _pad,
    "matmul": _matmul,
    "add": _both(operator.add),
    "sub": _both(operator.sub),
    "mul": _both(operator.mul),
    "greater": _both(operator.gt),
    "relu": lambda given: given["x"].clamp(min=0),
    "clip": lambda given: given["x"].clamp(float(given["alpha"]), float(given["beta"])),
    "cast": lambda given: _tensor(given["x"]).to(_DTYPES[given["dtype"]]),
    "transpose": lambda given: given["x"].permute(_ints(given["perm"])),
    "tile": lambda given: given["x"].repeat(_ints(given["reps"])),
    "reduce_mean": lambda given: given["x"].mean(_ints(given["axes"]), keepdim=bool(given["keep_dims"])),
    "select": lambda given: torch.where(given["cond"], _tensor(given["a"]), _tensor(given["b"])),
}
