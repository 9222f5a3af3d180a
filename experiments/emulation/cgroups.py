"""A control group with a CPU quota and a memory limit, for cgroup v1 and v2."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.leftovers import owned_name, remove_cgroup

_PERIOD_US = 10_000  # at the usual 100 ms a short inference runs at full speed or stalls; below 10 ms costs 15-20 %
_LONGEST_PERIOD_US = 1_000_000  # both limits are the kernel's
_LEAST_QUOTA_US = 1_000
LEAST_CPU_SHARE = _LEAST_QUOTA_US / _LONGEST_PERIOD_US
_WEIGHT = 8  # times an ordinary process: a share is a promise too, on a machine that others use
_TOP = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One group, which on v1 is a folder for each controller."""

    folders: tuple[Path, ...]
    quota: tuple[Path, str, str] | None = None  # file of the CPU limit, what sets it, and what lifts it

    @property
    def join_files(self) -> tuple[Path, ...]:
        """A process joins by writing its pid to each."""
        return tuple(folder / "cgroup.procs" for folder in self.folders)

    @contextlib.contextmanager
    def full_speed(self) -> Iterator[None]:
        """Lift the CPU limit meanwhile."""
        if self.quota is None:
            yield
            return
        file, limited, unlimited = self.quota
        file.write_text(unlimited)
        try:
            yield
        finally:
            file.write_text(limited)

    def oom_kills(self) -> int:
        """Processes that the kernel killed here because of the memory limit."""
        kills = 0
        for folder in self.folders:
            for name in ("memory.oom_control", "memory.events"):
                with contextlib.suppress(FileNotFoundError):
                    fields = dict(line.split() for line in (folder / name).read_text().splitlines())
                    kills += int(fields.get("oom_kill", 0))
        return kills


@contextlib.contextmanager
def cgroup(name: str, *, cpu_share: float | None, memory_bytes: int | None, top: Path = _TOP) -> Iterator[Cgroup]:
    """A fresh group; leaving kills what runs in it and removes it. None means no limit.

    Only the controllers of those limits need be there. On v2 the group is made at the top, or else below our own group
    where somebody delegated that to us.

    Raises:
        OSError: no rights, no such controller, or a share below the kernel's least quota.
        ValueError: no limit at all.
    """
    limits = (("cpu", cpu_share), ("memory", memory_bytes))
    controllers = [controller for controller, limit in limits if limit is not None]
    if not controllers:
        raise ValueError("a control group needs a limit")
    is_v2 = (top / "cgroup.controllers").exists()
    own = owned_name(name)
    if is_v2:
        folders = [_parent(top, controllers) / own]
    else:
        folders = [top / controller / own for controller in controllers]
    group = Cgroup(tuple(folders))
    try:
        for folder in group.folders:
            folder.mkdir()
        for path, text in _limits(group, cpu_share, memory_bytes, is_v2=is_v2):
            path.write_text(text)
        yield dataclasses.replace(group, quota=_quota(group, cpu_share, is_v2=is_v2))
    finally:
        for folder in group.folders:
            remove_cgroup(folder)


def _parent(top: Path, controllers: Sequence[str]) -> Path:
    """The first group of v2 that lets us limit its children: the top, or what our own group was delegated from.

    Raises:
        OSError: none does; all their reasons. A group that has processes of its own is busy.
    """
    refusals = []
    for parent in (top, *_own_groups(top)):
        try:
            (parent / "cgroup.subtree_control").write_text(" ".join(f"+{controller}" for controller in controllers))
        except OSError as refused:
            refusals.append(str(refused))
        else:
            return parent
    raise OSError("; ".join(refusals))


def _own_groups(top: Path) -> list[Path]:
    """Those that this process is in on v2, from the innermost to just below the top."""
    try:
        lines = _OWN.read_text().splitlines()
    except OSError:
        return []
    inside = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    innermost = top / inside
    return [group for group in (innermost, *innermost.parents) if top in group.parents]


def _limits(
    group: Cgroup, cpu_share: float | None, memory_bytes: int | None, *, is_v2: bool
) -> Iterator[tuple[Path, str]]:
    """(file, text), in the order of writing."""
    cpu, memory = group.folders[0], group.folders[-1]
    if cpu_share is not None:
        period_us = _period_us(cpu_share)
        quota_us = round(cpu_share * period_us)
        if is_v2:
            yield cpu / "cpu.weight", str(100 * _WEIGHT)
            yield cpu / "cpu.max", f"{quota_us} {period_us}"
        else:
            yield cpu / "cpu.shares", str(1024 * _WEIGHT)
            yield cpu / "cpu.cfs_quota_us", "-1"  # a period shorter than the quota would be refused
            yield cpu / "cpu.cfs_period_us", str(period_us)
            yield cpu / "cpu.cfs_quota_us", str(quota_us)
    if memory_bytes is not None:
        yield memory / ("memory.max" if is_v2 else "memory.limit_in_bytes"), str(memory_bytes)


def _quota(group: Cgroup, cpu_share: float | None, *, is_v2: bool) -> tuple[Path, str, str] | None:
    if cpu_share is None:
        return None
    period_us = _period_us(cpu_share)
    quota_us = round(cpu_share * period_us)
    if is_v2:
        return group.folders[0] / "cpu.max", f"{quota_us} {period_us}", f"max {period_us}"
    return group.folders[0] / "cpu.cfs_quota_us", str(quota_us), "-1"


def _period_us(cpu_share: float) -> int:
    """10 ms, and longer for shares below 0.1: the kernel has a least quota."""
    period_us = max(_PERIOD_US, math.ceil(_LEAST_QUOTA_US / cpu_share))
    if period_us > _LONGEST_PERIOD_US:
        raise OSError(f"a CPU share of {cpu_share:g} is below the kernel's least, {LEAST_CPU_SHARE:g}")
    return period_us
