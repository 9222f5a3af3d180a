"""Measuring in the background: one model that cannot be measured costs the others nothing."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from cloud_server.measuring import Measuring
from cloud_server.models import Loaded
from cloud_server.service import CloudService
from splitnn.cost.profile import Profile, Timing
from splitnn.errors import CaptureError
from splitnn.graph.model import Model
from splitnn.runtime.engine import Engine
from tests.models import captured

FAR_S = 60.0


def profile_of(model: Model) -> Profile:
    layers = {layer.name: Timing(1e-3, 1e-3) for layer in model.graph.layers}
    return Profile(model.digest, "cloud", layers, whole=Timing(1e-2, 1e-2))


@pytest.mark.parametrize("error", [KeyError("x"), IndexError("x"), RuntimeError("x"), CaptureError("x"), OSError("x")])
def test_whatever_measuring_one_model_raises_is_logged_and_the_next_is_measured(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = captured("chain"), captured("residual")

    def measure(model: Model, **options: Any) -> Profile:
        if model is broken:
            raise error
        return profile_of(model)

    monkeypatch.setattr("cloud_server.measuring.profile", measure)

    async def scenario() -> None:
        engine = Engine()
        service = CloudService(engine)
        service.add(Loaded("broken", "1", broken))
        service.add(Loaded("sound", "1", sound))
        measuring = Measuring(service, engine, threads=1)
        measuring.start()
        while (await service.report("sound")).profile is None:
            await asyncio.sleep(0)
        assert (await service.report("broken")).profile is None
        measuring.stop()
        engine.close()

    asyncio.run(asyncio.wait_for(scenario(), FAR_S))
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "broken could not be measured" in record.getMessage()
    assert record.exc_info is not None
