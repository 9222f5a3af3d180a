"""What is left of a request when the device has run its part: asked of the cloud, or done here after all."""

from __future__ import annotations

import logging
from collections.abc import Callable

from device_agent.cloud import Cloud
from device_agent.navigator import Navigator
from device_agent.patience import Patience
from device_agent.refusals import Refusals
from splitnn.errors import (
    CodecError,
    DeadlineExceeded,
    DigestMismatch,
    Overloaded,
    RequestError,
    TransportError,
    UnknownModel,
)
from splitnn.planner.plan import Plan
from splitnn.runtime.engine import Engine
from splitnn.runtime.pipeline import Pipeline, Progress
from splitnn.transport.base import Clock

_log = logging.getLogger(__name__)
_NEARLY = 0.95  # timers of two hosts differ


class Rest:
    """Finishes requests: whatever goes wrong with the cloud, only a deadline loses one."""

    def __init__(
        self,
        cloud: Cloud,
        navigator: Navigator,
        engine: Engine,
        *,
        patience: Patience,
        refusals: Refusals,
        before: Callable[[], None],
        clock: Clock,
    ) -> None:
        """``before`` is called each time that the cloud is about to be asked."""
        self._cloud, self._navigator, self._engine = cloud, navigator, engine
        self._patience, self._refusals = patience, refusals
        self._before = before
        self._clock = clock

    async def done(self, pipeline: Pipeline, plan: Plan, progress: Progress, *, load: float) -> tuple[Progress, str]:
        """The finished request, and why the cloud had no part in it; "" when it had. ``load`` is in examples.

        Raises:
            DeadlineExceeded: the request's time is over.
            RequestError: the device refuses what is left, as the cloud did.
        """
        if progress.passage is not None:
            load *= len(progress.passage.aboard) / len(progress.passage.verdicts)
        self._before()
        asked_s = self._clock()
        remote_s = self._expected_s(plan, load)
        until_s = self._until_s(pipeline, progress, remote_s=remote_s, load=load)
        if until_s is None:
            return await pipeline.finish_here(progress), "its deadline left no time to ask the cloud"
        try:
            done = await pipeline.advance(progress, until_s=until_s)
        except Overloaded as error:
            reason = f"the cloud is overloaded: {error}"
        except DeadlineExceeded as error:
            waited_s = self._clock() - asked_s
            reason = f"no answer from the cloud within {waited_s:.2f} s: {error}"
            if waited_s >= self._patience.patient_s(remote_s) * _NEARLY:  # else the request was in a hurry, no more
                self._cloud.estimator.observe_unfinished(round(plan.predicted.sent_bytes * load), waited_s)
                self._cloud.lose(f"DeadlineExceeded: {reason}")
        except (TransportError, DigestMismatch, UnknownModel) as error:  # no plan could help
            reason = f"{type(error).__name__}: {error}"
        except (RequestError, CodecError) as error:
            reason = f"{type(error).__name__}: {error}"
            done = await pipeline.finish_here(progress)
            # The device has no objection, so it is not the request.
            if self._refusals.add(plan.id, load=load, reason=reason):
                _log.error("the cloud refuses what this plan sends; not used for a while: %s: %s", plan, reason)
            return done, reason
        else:
            self._refusals.clear(plan.id, load=load)
            return done, ""
        return await pipeline.finish_here(progress), reason

    def _expected_s(self, plan: Plan, load: float) -> float:
        """Seconds until the cloud's answer, behind those that wait for one already."""
        beyond_s = plan.predicted.latency_s - plan.predicted.compute_s[0]
        return beyond_s * load * (self._cloud.under_way + 1)

    def _until_s(self, pipeline: Pipeline, progress: Progress, *, remote_s: float, load: float) -> float | None:
        """How long the cloud may take; None: no time at all."""
        busy, to_answer = load * (self._engine.waiting + 1), pipeline.layers_to_an_answer(progress)
        return self._patience.until_answered_s(
            now_s=self._clock(),
            deadline_s=min(progress.deadline_s, progress.answer_by_s),
            remote_s=remote_s,
            local_s=self._navigator.device_seconds(pipeline.stages[1].layers) * busy,
            answer_s=self._navigator.device_seconds(to_answer) * busy if to_answer else 0.0,
        )
