"""The front door of the testbed on one machine: calibrated links, slow hosts, bandwidth traces.

    with calibrated_link(Shape(5e6, 5e6, rtt_s=0.02)) as (link, calibration):
        print(link.method, link.cannot, calibration)
        cloud = Host("cloud", link=link, side="server", cpu_share=0.75)
        with cloud, Host("device", link=link, side="device", cpu_share=0.1) as device:
            cloud.start([..., "--listen", f"{link.server_host}:50051"])
            device.start([..., "--server", link.address_of(50051), "--slowdown", str(device.slowdown)])
            with replayed(synthetic_trace("4g", duration_s=60, seed=1), link):
                ...

Everything is gone when the contexts end, by an exception and Ctrl-C too. After SIGKILL the processes die by themselves,
and what has a name is removed by the link's relay, or when the next experiment starts.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence

from experiments.emulation.calibration import Calibration as Calibration
from experiments.emulation.calibration import LinkOffTarget as LinkOffTarget
from experiments.emulation.calibration import calibrate as calibrate
from experiments.emulation.hosts import Host as Host
from experiments.emulation.links import ProxiedLink as ProxiedLink
from experiments.emulation.links import emulated_link as emulated_link
from experiments.emulation.links import proxied_link as proxied_link
from experiments.emulation.programs import Program as Program
from experiments.emulation.replay import replayed as replayed
from experiments.emulation.shape import METHODS as METHODS
from experiments.emulation.shape import EmulatedLink as EmulatedLink
from experiments.emulation.shape import Method as Method
from experiments.emulation.shape import Shape as Shape
from experiments.emulation.shape import shape_of as shape_of
from experiments.emulation.steered_proxy import SteeredProxy as SteeredProxy
from experiments.emulation.synthetic_traces import synthetic_trace as synthetic_trace
from experiments.emulation.traces import Trace as Trace
from experiments.emulation.traces import load_trace as load_trace
from experiments.leftovers import remove_leftovers as remove_leftovers

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def calibrated_link(
    shape: Shape, *, methods: Sequence[Method] = METHODS, seed: int = 0
) -> Iterator[tuple[EmulatedLink, Calibration]]:
    """Sweep up after dead experiments, emulate a link by the best method here, and measure it. Takes 5 s or more.

    Raises:
        LinkOffTarget: the link's rate is more than 3 % off.
        RuntimeError: there is no way to emulate such a link here.
    """
    for name in remove_leftovers():
        logger.info("removed what a dead experiment left: %s", name)
    with emulated_link(shape, methods=methods, seed=seed) as link:
        yield link, calibrate(link)
