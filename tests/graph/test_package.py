"""Packages: what was saved is what is loaded, and nothing else is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from splitnn.errors import PackageError
from splitnn.graph import package
from splitnn.graph.operators import name_of, resolve
from splitnn.runtime.stage import stage
from splitnn.runtime.verify import identical
from tests.models import TINY, captured


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return package.save(captured("attention"), tmp_path / "model")


@pytest.mark.parametrize("name", TINY)
def test_loaded_model_equals_the_saved_one_bit_for_bit(name: str, tmp_path: Path) -> None:
    model = captured(name)
    again = package.load(package.save(model, tmp_path / name))
    assert (again.digest, again.graph, again.result) == (model.digest, model.graph, model.result)
    graph = model.graph
    one, other = (stage(m, graph.inputs, graph.outputs).run(model.example) for m in (model, again))
    assert all(identical(one[tensor], other[tensor]) for tensor in graph.outputs)
    assert all(tensor.data_ptr() % 64 == 0 for tensor in again.weights.values())


def test_tied_weights_are_written_once_and_share_memory_again(tmp_path: Path) -> None:
    model = captured("tied")
    again = package.load(package.save(model, tmp_path / "tied"))
    distinct = {tensor.data_ptr() for tensor in model.weights.values()}
    assert len({tensor.data_ptr() for tensor in again.weights.values()}) == len(distinct)


@pytest.mark.parametrize("name", ["manifest.json", "graph.json", "weights.safetensors", "example.safetensors"])
def test_folder_without_one_file_is_half_written(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(PackageError, match=f"{name} is missing"):
        package.load(folder)


@pytest.mark.parametrize("name", ["graph.json", "weights.safetensors", "example.safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_damaged_file_is_refused(folder: Path, name: str, damage: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content[: len(content) // 2] if damage == "truncated" else content)
    with pytest.raises(PackageError, match=f"{name} is not the file that the manifest describes"):
        package.load(folder)


def rewrite_graph(folder: Path, change: Any) -> None:
    """Change graph.json and make the manifest agree, as an attacker would."""
    description = json.loads((folder / "graph.json").read_bytes())
    change(description)
    (folder / "graph.json").write_text(json.dumps(description))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["graph.json"] = package._stamp(folder / "graph.json")
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "op", ["aten.save.default", "aten.from_file.default", "aten.relu_.default", "os.system", "aten.add_.Tensor", "x"]
)
def test_operator_off_the_allow_list_is_never_loaded(folder: Path, op: str) -> None:
    def plant(description: Any) -> None:
        description["program"]["nodes"][0][1] = op

    rewrite_graph(folder, plant)
    with pytest.raises(PackageError, match="not on the allow-list"):
        package.load(folder)


def test_operator_hidden_in_a_branch_is_never_loaded(tmp_path: Path) -> None:
    folder = package.save(captured("conditional"), tmp_path / "model")

    def plant(description: Any) -> None:
        for node in description["program"]["nodes"]:
            for argument in node[2]:
                if isinstance(argument, dict) and "program" in argument:
                    argument["program"]["nodes"][0][1] = "aten.from_file.default"

    rewrite_graph(folder, plant)
    with pytest.raises(PackageError, match="not on the allow-list"):
        package.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["graph"]["tensors"]["x"].__setitem__(0, ["a", None]),
        lambda d: d["graph"]["tensors"]["x"].__setitem__(0, [-2, 4, 16]),
        lambda d: d["graph"]["tensors"]["x"].__setitem__(0, [1, 5, 17]),
        lambda d: d["graph"]["tensors"]["x"].__setitem__(3, [7, 7, 7]),
        lambda d: d["graph"]["tensors"]["x"].__setitem__(1, "float33"),
        lambda d: d["graph"].update(outputs=["norm"]),
        lambda d: d["program"].update(outputs=[{"ref": "norm"}]),
    ],
)
def test_graph_that_is_not_its_program_is_refused(folder: Path, change: Any) -> None:
    rewrite_graph(folder, change)
    with pytest.raises(PackageError):
        package.load(folder)


@pytest.mark.parametrize("files", [[1], None, "x", 3])
def test_manifest_with_other_types_is_refused(folder: Path, files: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "files": files}))
    with pytest.raises(PackageError, match="JSON objects"):
        package.load(folder)


def test_operator_nested_in_lists_is_never_loaded(folder: Path) -> None:
    branch = {"inputs": [], "weights": [], "nodes": [["a", "os.system", ["true"], {}]], "outputs": []}

    def plant(description: Any) -> None:
        description["program"]["nodes"][0][2].append([[{"tuple": [{"program": branch}]}]])

    rewrite_graph(folder, plant)
    with pytest.raises(PackageError, match="not on the allow-list"):
        package.load(folder)


@pytest.mark.parametrize(("a", "b"), [([1], 10**9), (2**62, 2**64), ("x", 3), (True, None)])
def test_arithmetic_is_for_sizes_only(a: Any, b: Any) -> None:
    with pytest.raises(ValueError, match="is no size"):
        resolve("operator.mul")(a, b)
    assert resolve("operator.mul")(3, 4) == 12


def test_code_in_the_name_of_an_argument_is_never_run(folder: Path, tmp_path: Path) -> None:
    planted = tmp_path / "planted"

    def plant(description: Any) -> None:
        description["program"]["nodes"][0][3] = {f"x=open({str(planted)!r}, 'w') or 1, y": 1}

    rewrite_graph(folder, plant)
    with pytest.raises(PackageError, match="arguments called"):
        package.load(folder)
    assert not planted.exists()


def test_rewritten_graph_has_another_digest(folder: Path) -> None:
    rewrite_graph(folder, lambda description: description["graph"].update(batch=2))
    with pytest.raises(PackageError, match="digest"):
        package.load(folder)


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"format": "other"}', '{"format": "splitnn-package-1"}', "[" * 9999]
)
def test_manifest_of_nonsense_is_refused(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    with pytest.raises(PackageError, match=r"manifest\.json"):
        package.load(folder)


def test_save_never_overwrites(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="exists"):
        package.save(captured("chain"), folder)
    assert package.load(folder)
    shutil.rmtree(folder)
    assert list(tmp_path.iterdir()) == []  # nothing half written stays behind


@pytest.mark.parametrize(
    "name",
    [
        "aten.relu_.default", "aten.copy_.default", "aten.add.out",  # write into arguments
        "aten.save.default", "aten.from_file.default",  # files
        "aten.empty.memory_format", "aten.new_empty.default", "aten._empty_affine_quantized.default",  # old memory
        "aten._reshape_alias.default", "aten.as_strided.default", "aten._nested_view_from_buffer.default",  # no bounds
        "aten._resize_output.default", "aten.segment_reduce.default", "aten._embedding_bag.default",
        "aten.fbgemm_linear_fp16_weight.default", "aten.fbgemm_pack_gemm_matrix_fp16.default",  # addresses as data
        "aten._make_per_tensor_quantized_tensor.default", "aten._sparse_coo_tensor_unsafe.default",
        "aten.linalg_lu_solve.default", "aten.split.str", "prim.device.default", "operator.setitem", "torch.load",
    ],
)  # fmt: skip
def test_operator_that_reaches_beyond_its_arguments_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="allow-list"):
        resolve(name)


def test_allowed_operator_has_one_name_both_ways() -> None:
    assert name_of(torch.ops.aten.relu_.default) is None
    assert resolve("aten.relu.default") is torch.ops.aten.relu.default
    assert name_of(torch.ops.aten.relu.default) == "aten.relu.default"
