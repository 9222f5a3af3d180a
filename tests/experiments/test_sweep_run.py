"""The order of a sweep: what is measured, drawn, left out or not done again. Its parts are stand-ins."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.bandwidth_sweep import run
from experiments.bandwidth_sweep.cells import Cell, Measured, topology_of
from experiments.bandwidth_sweep.cuts import Survey
from experiments.bandwidth_sweep.deployment import profiles_of
from experiments.bandwidth_sweep.run import Sweep
from experiments.bandwidth_sweep.setup import QUICK, Setup
from experiments.bandwidth_sweep.ways import AGENT, Planning
from experiments.emulation.shape import Shape, shape_of
from splitnn.cost.profile import Profile, Timing
from splitnn.errors import UnknownModel
from splitnn.graph.graph import Graph, Layer, TensorSpec

LINKS = ("1Mbps/10ms", "2Mbps/10ms")
SPEC = TensorSpec((1, 8), "float32")
GRAPH = Graph((Layer("a", "op", ("x",), ("y",), "", (), 0),), {"x": SPEC, "y": SPEC}, ("x",), ("y",), {}, 1)
PROFILE = Profile("0" * 64, "device", {"a": Timing(0.01, 0.01)}, Timing(0.01, 0.01))
ABOUT = {"server_share": "0.8", "hosts_method": "in a test", "link_method": "proxy", "commit": "abc"}
PARTS = ("total_s", "seen_s", "choose_s", "predicted_s", "encode_s", "network_s", "decode_s", "head_s", "tail_s",
         "local_tail_s", "queue_s", "cloud_queue_s", "sent_bytes", "received_bytes", "predicted_head_s",
         "predicted_transfer_s", "predicted_tail_s", "same_label", "cosine")  # fmt: skip


class Stage:
    """Stands in for everything around a sweep, and notes what it does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calibrated: list[str] = []
        self.prepared: list[str] = []
        self.measured: list[str] = []
        self.drawn: list[str] = []
        self.applications: list[SimpleNamespace] = []
        self.failing: dict[str, Exception] = {}  # what measuring a model raises
        self._model = ""
        for name, part in (
            ("emulated_link", self._link), ("calibrate", self._calibrate), ("prepare", self._prepare),
            ("Deployment", self._deployment), ("Application", self._application), ("measure_cell", self._measure_cell),
            ("wait_for_cloud", lambda ask: None), ("draw_model", self._draw), ("remove_leftovers", list),
        ):  # fmt: skip
            monkeypatch.setattr(run, name, part)

    @contextlib.contextmanager
    def _link(self, shape: Shape, **_: Any) -> Iterator[Any]:
        link = SimpleNamespace(shape=shape, method="proxy", cannot="carry anything", namespace=lambda side: None)
        link.set = lambda **changes: setattr(link, "shape", dataclasses.replace(link.shape, **changes))
        yield link

    def _calibrate(self, link: Any) -> str:
        self.calibrated.append(str(link.shape))
        return "measured"

    def _prepare(self, name: str, *_: Any, **__: Any) -> Any:
        self._model = name
        self.prepared.append(name)
        if isinstance(failure := self.failing.get(name), UnknownModel):
            raise failure
        return SimpleNamespace(
            name=name, profile=PROFILE, model=SimpleNamespace(graph=GRAPH), weights="random", content="an example"
        )

    @contextlib.contextmanager
    def _deployment(self, subject: Any, *_: Any, **shares: Any) -> Iterator[Any]:
        profiles = profiles_of(subject, device_share=0.2, server_share=0.8)
        yield SimpleNamespace(shares={"server_share": "0.8"}, method="in a test", profiles=profiles, agent="agent")

    def _application(self, host: Any) -> Any:
        application = SimpleNamespace(is_closed=False)
        application.close = lambda: setattr(application, "is_closed", True)
        self.applications.append(application)
        return application

    def _measure_cell(self, *_: Any, **__: Any) -> tuple[list[Measured], Survey]:
        if failure := self.failing.get(self._model):
            raise failure
        self.measured.append(self._model)
        return [way()], Survey(0, 0, 0, 0, within=1.4)

    def _draw(self, path: Path, cells: Sequence[Cell], planning: Planning, *, title: str) -> None:
        self.drawn.append(path.name)
        path.write_bytes(b"a picture")


def way() -> Measured:
    plan = Planning(GRAPH, {"device": PROFILE, "cloud": PROFILE.scaled(0.1, host="cloud")}, ("raw",)).best(
        topology_of(shape_of(LINKS[0]))
    )
    return Measured(plan, (AGENT,), (dict.fromkeys(PARTS, 1.0) | {"choose_s": 0.0},))


def known_cell(model: str, link: str) -> Cell:
    return Cell(model, shape_of(link), is_calibrated=True, ways=(way(),), load=0.0, about=ABOUT)


def sweep(folder: Path, *models: str, known: Sequence[Cell] = ()) -> dict[str, Any]:
    setup: Setup = dataclasses.replace(QUICK, models=models, links=LINKS, codecs=("raw",))
    with contextlib.ExitStack() as stack:
        Sweep(setup, folder, folder, stack, known=known).run()
    report: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return report


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("device_agent did not become ready:\nno memory"),
        RuntimeError("the agent does not find the cloud: refused"),
        UnknownModel("b is not installed"),
        OSError("no space"),
    ],
)
def test_a_model_that_cannot_be_measured_is_left_out_with_its_reason_and_the_others_are_measured(
    stage: Stage, tmp_path: Path, failure: Exception
) -> None:
    stage.failing["b"] = failure
    report = sweep(tmp_path, "a", "b", "c")
    assert stage.measured == ["a", "a", "c", "c"]
    assert stage.drawn == ["a.png", "c.png"]
    reason = f"b: {' '.join(str(failure).split())}"
    assert report["notes"]["models_left_out"] == [reason]
    assert f"left out: {reason}" in (tmp_path / "summary.txt").read_text()
    assert report["headline"]["cells"] == 4


def test_after_a_failure_the_next_model_gets_a_fresh_application_and_all_are_ended(
    stage: Stage, tmp_path: Path
) -> None:
    stage.failing["b"] = RuntimeError("it ended with status 1: an application")
    sweep(tmp_path, "a", "b", "c", "d")
    assert len(stage.applications) == 2
    assert all(application.is_closed for application in stage.applications)


def test_where_all_cells_are_known_nothing_is_calibrated_started_or_measured(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"an earlier picture")
    report = sweep(tmp_path, "a", known=[known_cell("a", link) for link in LINKS])
    assert (stage.calibrated, stage.prepared, stage.applications, stage.drawn) == ([], [], [], [])
    assert report["headline"]["cells"] == 2


def test_a_lost_picture_is_drawn_again_from_known_cells(stage: Stage, tmp_path: Path) -> None:
    sweep(tmp_path, "a", known=[known_cell("a", link) for link in LINKS])
    assert (stage.prepared, stage.drawn) == (["a"], ["a.png"])
    assert (stage.calibrated, stage.measured, stage.applications) == ([], [], [])


def test_only_links_that_are_left_are_calibrated(stage: Stage, tmp_path: Path) -> None:
    sweep(tmp_path, "a", known=[known_cell("a", LINKS[0])])
    assert stage.calibrated == [str(shape_of(LINKS[1]))]
    assert stage.measured == ["a"]
