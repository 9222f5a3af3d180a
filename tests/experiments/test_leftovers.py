"""An experiment that ends, however it ends, leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.leftovers import is_dead, owned_name, remove_cgroup, remove_leftovers, scratch_folder, wait_until

ROOT = Path(__file__).resolve().parents[2]

# A link by the best method here, a limited process on each side; says what it made, then waits.
EXPERIMENT = """
import json, os, sys, time
from pathlib import Path
from experiments.testbed import Host, METHODS, Shape, emulated_link
methods = sys.argv[1].split(",")
with emulated_link(Shape(5e6, 5e6), methods=methods) as link:
    address = link.address_of(9)
    with Host("server", link=link, side="server", cpu_share=0.3) as server, Host("device", link=link) as device:
        pids = [host.start(["sleep", "1000"]).pid for host in (server, device)]
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        groups = [str(folder) for folder in server._cgroup.folders] if server._cgroup else []
        spaces = [link.namespace(side) for side in ("device", "server")]
        made = {"method": link.method, "pids": pids + [int(pid) for pid in children], "groups": groups}
        print(json.dumps(made | {"namespaces": [space for space in spaces if space]}), flush=True)
        time.sleep(1000)
"""


def running_experiment(methods: str) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
    command = [sys.executable, "-c", EXPERIMENT, methods]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as output:
        made: dict[str, Any] = json.loads(output.readline())
    assert len(set(made["pids"])) >= 3  # both sides' processes, and the relay or the proxy or none for netem
    return process, made


def is_nothing_left(made: dict[str, Any]) -> bool:
    paths = [Path("/run/netns", name) for name in made["namespaces"]] + [Path(group) for group in made["groups"]]
    return all(map(is_dead, made["pids"])) and not any(path.exists() for path in paths)


@pytest.mark.slow
@pytest.mark.parametrize("methods", ["netem,tbf+relay,proxy", "proxy"])
def test_a_killed_experiment_leaves_no_process_and_the_next_one_no_name(methods: str) -> None:
    process, made = running_experiment(methods)
    process.kill()
    process.wait(10)
    assert wait_until(lambda: all(map(is_dead, made["pids"])), limit_s=10), "processes die by themselves"
    if made["method"] == "tbf+relay":
        assert wait_until(lambda: is_nothing_left(made), limit_s=10), "the relay sweeps up after its owner"
    remove_leftovers()
    assert is_nothing_left(made)


@pytest.mark.slow
@pytest.mark.parametrize("methods", ["netem,tbf+relay,proxy", "proxy"])
def test_ctrl_c_leaves_nothing_at_once(methods: str) -> None:
    process, made = running_experiment(methods)
    process.send_signal(signal.SIGINT)
    process.wait(20)
    assert is_nothing_left(made)


def test_a_sweep_leaves_the_living_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    mine = tmp_path / "cpu" / owned_name("mine")
    dead = tmp_path / "cpu" / f"splitnn-{gone.pid}-0a1b2c-device"
    foreign = tmp_path / "cpu" / f"other-{gone.pid}"
    for folder in (mine, dead, foreign):
        folder.mkdir(parents=True)
    removed: list[Path] = []
    monkeypatch.setattr("experiments.leftovers._CGROUPS", tmp_path)
    monkeypatch.setattr("experiments.leftovers._NAMESPACES", tmp_path / "none")
    monkeypatch.setattr("experiments.leftovers.remove_cgroup", removed.append)
    remove_leftovers()
    assert removed == [dead]


def test_scratch_files_of_the_dead_are_removed_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    monkeypatch.setattr("experiments.leftovers._CGROUPS", tmp_path / "none")
    monkeypatch.setattr("experiments.leftovers._NAMESPACES", tmp_path / "none")
    monkeypatch.setattr("experiments.leftovers._SCRATCH", tmp_path)
    dead = tmp_path / f"splitnn-{gone.pid}-0a1b2c-sweep"
    (dead / "package").mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = tmp_path / f"splitnn-{gone.pid}-0a1b2d-sweep"
    link.symlink_to(elsewhere)
    with scratch_folder("sweep") as mine:
        assert remove_leftovers() == [str(dead)]
        assert not dead.exists()
        assert elsewhere.exists()
        assert mine.is_dir()
        (mine / "package").write_text("")
    assert not mine.exists()


def test_removing_a_group_that_is_gone_is_no_error(tmp_path: Path) -> None:
    assert remove_cgroup(tmp_path / "none")


def test_a_zombie_is_dead_and_we_are_not() -> None:
    zombie = subprocess.Popen(["true"])
    assert wait_until(lambda: is_dead(zombie.pid), limit_s=10)
    zombie.wait()
    assert is_dead(zombie.pid)
    assert not is_dead(os.getpid())
