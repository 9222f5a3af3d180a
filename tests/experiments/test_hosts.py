"""Hosts: their limits hold, and without the right to set them they say so."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.emulation import hosts
from experiments.emulation.cgroups import Cgroup, cgroup
from experiments.emulation.hosts import Host
from experiments.leftovers import is_dead, wait_until


@pytest.fixture(scope="module")
def can_limit() -> None:
    try:
        with cgroup("probe", cpu_share=0.5, memory_bytes=1 << 28):
            pass
    except OSError as missing:
        pytest.skip(f"no control groups here: {missing}")


def output_of(process: subprocess.Popen[bytes]) -> str:
    return process.communicate(timeout=60)[0].decode()


@pytest.mark.usefixtures("can_limit")
def test_a_host_gets_no_more_cpu_than_its_share() -> None:
    spin = "import time; e = time.monotonic() + 1.5\nwhile time.monotonic() < e: pass\nprint(time.process_time())"
    with Host("small", cpu_share=0.2) as host:
        assert host.slowdown == 1.0
        assert "0.2 of a core" in host.method
        used_s = float(output_of(host.start([sys.executable, "-S", "-c", spin], stdout=subprocess.PIPE)))
    assert used_s < 0.2 * 1.5 * 1.5  # at full speed it would be 1.5


@pytest.mark.usefixtures("can_limit")
def test_full_speed_lifts_the_limit_and_sets_it_again() -> None:
    with cgroup("brief", cpu_share=0.2, memory_bytes=None) as group:
        assert group.quota is not None
        file, limited, unlimited = group.quota
        with group.full_speed():
            assert file.read_text().split() == unlimited.split()
        assert file.read_text().split() == limited.split()


@pytest.mark.usefixtures("can_limit")
def test_a_process_that_outgrows_its_memory_is_killed_and_counted() -> None:
    with Host("small", memory_bytes=64 << 20) as host:
        process = host.start([sys.executable, "-S", "-c", "x = bytearray(200 << 20)"])
        assert process.wait(60) == -9
        assert host.oom_kills() >= 1


def test_a_host_runs_one_thread_and_passes_the_environment_and_folder_on(tmp_path: Path) -> None:
    show = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['EXTRA'], os.getcwd())"
    with Host("plain") as host:
        process = host.start([sys.executable, "-c", show], env={"EXTRA": "yes"}, cwd=tmp_path, stdout=subprocess.PIPE)
        assert output_of(process).split() == ["1", "yes", str(tmp_path)]
        assert host.method == "at full speed"


def test_leaving_a_host_without_control_group_ends_children_of_its_processes() -> None:
    with Host("plain") as host:
        process = host.start(["sh", "-c", "sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout as output:
            child = int(output.readline())
        assert not is_dead(child)
    assert wait_until(lambda: is_dead(child), limit_s=5)


def test_without_control_groups_a_host_says_that_it_is_scaled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @contextlib.contextmanager
    def refused(*_: Any, **__: Any) -> Iterator[Cgroup]:
        raise PermissionError("not yours")
        yield

    monkeypatch.setattr(hosts, "cgroup", refused)
    with Host("small", cpu_share=0.1) as host:
        assert host.slowdown == 10
        assert "scaled" in host.method
        assert output_of(host.start(["echo", "runs"], stdout=subprocess.PIPE)) == "runs\n"
    assert "not yours" in caplog.text


def test_leaving_a_host_ends_its_processes_and_their_children_in_the_group(can_limit: None) -> None:
    with Host("parent", cpu_share=0.5) as host:
        script = "sleep 1000 & echo $!; trap '' TERM; wait; sleep 1000"
        process = host.start(["sh", "-c", script], stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout as output:
            child = int(output.readline())
        assert not is_dead(child)
    assert process.returncode is not None
    assert wait_until(lambda: is_dead(child), limit_s=5)


@pytest.mark.parametrize("wrong", [{"cpu_share": 0.0}, {"cpu_share": -1.0}, {"memory_bytes": 0}])
def test_limits_of_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        Host("none", **wrong)


@pytest.mark.parametrize(
    ("name", "limits", "message"),
    [
        ("slow", {"cpu_share": 0.0009}, "0.001 at least, not 0.0009"),
        ("tiny", {"memory_bytes": 0.5}, "whole bytes, not 0.5"),
        ("a/b", {"cpu_share": 0.5}, "letters, digits"),
        ("", {}, "letters, digits"),
    ],
)
def test_limits_and_names_that_no_control_group_has_are_refused_rather_than_scaled(
    name: str, limits: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Host(name, **limits)


def contents(group: Cgroup) -> dict[str, str]:
    return {file.name: file.read_text() for folder in group.folders for file in folder.iterdir()}


def test_both_versions_of_control_groups_get_a_10_ms_period(tmp_path: Path) -> None:
    v1, v2 = tmp_path / "v1", tmp_path / "v2"
    for folder in (v1 / "cpu", v1 / "memory", v2):
        folder.mkdir(parents=True)
    (v2 / "cgroup.controllers").write_text("cpu memory")
    with cgroup("x", cpu_share=0.25, memory_bytes=4096, top=v1) as group:
        assert [folder.parent.name for folder in group.folders] == ["cpu", "memory"]
        assert contents(group) == {
            "cpu.cfs_period_us": "10000",
            "cpu.cfs_quota_us": "2500",
            "cpu.shares": "8192",
            "memory.limit_in_bytes": "4096",
        }
    with cgroup("x", cpu_share=0.25, memory_bytes=4096, top=v2) as group:
        assert contents(group) == {"cpu.max": "2500 10000", "cpu.weight": "800", "memory.max": "4096"}
        assert (v2 / "cgroup.subtree_control").read_text() == "+cpu +memory"
    assert f"splitnn-{os.getpid()}-" in group.folders[0].name


def test_a_machine_with_one_controller_limits_what_it_can(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    with cgroup("x", cpu_share=0.25, memory_bytes=None, top=tmp_path) as group:
        assert [folder.parent.name for folder in group.folders] == ["cpu"]
        assert contents(group)["cpu.cfs_quota_us"] == "2500"
    with pytest.raises(OSError), cgroup("x", cpu_share=0.25, memory_bytes=4096, top=tmp_path):
        pass


def test_where_the_top_is_not_ours_the_group_is_made_in_the_part_that_was_delegated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top, delegated = tmp_path / "top", tmp_path / "top" / "user" / "delegated"
    own = delegated / "shell"
    own.mkdir(parents=True)
    (top / "cgroup.controllers").write_text("cpu")
    for refusing in (top, own):
        (refusing / "cgroup.subtree_control").mkdir()  # cannot be written, as a busy group's cannot
    (tmp_path / "own").write_text("0::/user/delegated/shell\n")
    monkeypatch.setattr("experiments.emulation.cgroups._OWN", tmp_path / "own")
    with cgroup("x", cpu_share=0.25, memory_bytes=None, top=top) as group:
        assert [folder.parent for folder in group.folders] == [delegated]
        assert (delegated / "cgroup.subtree_control").read_text() == "+cpu"


def test_a_share_too_small_for_10_ms_gets_the_shortest_period_that_the_kernel_takes(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory")
    with cgroup("x", cpu_share=0.05, memory_bytes=None, top=tmp_path) as group:
        assert contents(group) == {"cpu.max": "1000 20000", "cpu.weight": "800"}
    with pytest.raises(OSError, match="least"), cgroup("x", cpu_share=1e-4, memory_bytes=None, top=tmp_path):
        pass
