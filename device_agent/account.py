"""What an answer says about how it was made: its parameters, measured beside predicted. Pure."""

from __future__ import annotations

from splitnn.planner.plan import Plan
from splitnn.runtime.pipeline import Progress
from splitnn.transport.base import Parameter


def account(
    plan: Plan,
    progress: Progress,
    *,
    total_s: float,
    choose_s: float = 0.0,
    load: float = 1.0,
    degraded: str = "",
    late_s: float = 0.0,
    slowdown: float = 1.0,
) -> dict[str, Parameter]:
    """The parameters of a finished request of ``load`` examples that followed ``plan``; seconds throughout.

    Predictions are for one example; all but the round trip and the handling of stages and messages is taken for
    proportional to the load.

    ``head_s`` is this host's first stage, ``local_tail_s`` what it finished for the others; ``network_s`` is neither
    coding nor the far side's work. ``choose_s`` is the part of ``total_s`` that a plan of the request's own took to be
    priced and, the first time, compiled. ``transfer_s`` compares with ``predicted_transfer_s``. ``degraded`` is the
    reason why the cloud had no part that it should have had, ``late_s`` by how much the answer misses the request's
    deadline (as it leaves here; the way back comes on top), ``emulated_slowdown`` the factor by which time was scaled;
    each is absent where it does not apply.
    """
    cost = plan.predicted
    handling_s = sum(cost.handling_s)
    transferred_s = cost.transfer_s - cost.round_trip_s - handling_s
    predicted_transfer_s = max(0.0, transferred_s * load + cost.round_trip_s)
    head_first = bool(plan.layers[0]) and bool(progress.stage_s)
    answers = progress.answers
    encode_s = sum(answer.encode_s + answer.timings.encode_s for answer in answers)
    decode_s = sum(answer.decode_s + answer.timings.decode_s for answer in answers)
    network_s = sum(max(0.0, answer.elapsed_s - answer.timings.total_s) for answer in answers)
    parameters: dict[str, Parameter] = {
        "plan": str(plan),
        "plan_id": plan.id,
        "total_s": total_s,
        "choose_s": choose_s,
        "head_s": progress.stage_s[0] if head_first else 0.0,
        "local_tail_s": sum(progress.stage_s[1 if head_first else 0 :]),
        "queue_s": progress.queue_s,
        "encode_s": encode_s,
        "network_s": network_s,
        "decode_s": decode_s,
        "transfer_s": encode_s + network_s + decode_s,
        "cloud_queue_s": sum(answer.timings.queue_s for answer in answers),
        "tail_s": sum(answer.timings.compute_s for answer in answers),
        "sent_bytes": sum(answer.sent_bytes for answer in answers),
        "received_bytes": sum(answer.received_bytes for answer in answers),
        "predicted_s": sum(cost.compute_s) * load + predicted_transfer_s + handling_s,
        "predicted_head_s": cost.compute_s[0] * load,
        "predicted_transfer_s": predicted_transfer_s,
        "predicted_handling_s": handling_s,
        "predicted_tail_s": sum(cost.compute_s[1:]) * load,
        "predicted_sent_bytes": round(cost.sent_bytes * load),
    }
    if degraded:
        parameters["degraded"] = degraded
    if late_s > 0:
        parameters["late_s"] = late_s
    if slowdown != 1.0:
        parameters["emulated_slowdown"] = slowdown
    return parameters
