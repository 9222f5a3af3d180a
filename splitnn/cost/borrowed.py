"""What a predicted profile takes from one that was measured on another host: codecs and handling. Knows no torch."""

from __future__ import annotations

from dataclasses import replace

from splitnn.cost.profile import CodecCost, Profile
from splitnn.errors import ProfileMismatch

UNKNOWN = "a stage's and a message's cost is not known, and counted as nothing"


def borrow(predicted: Profile, reference: Profile) -> Profile:
    """The prediction with codecs as ``reference``, of the same model, has them, slower by as much as its layers are.

    So are the costs of a stage and of a message where the prediction knows none. ``machine`` says what was taken.

    Raises:
        ProfileMismatch: the two are not of one model.
    """
    if (predicted.model, predicted.layers.keys()) != (reference.model, reference.layers.keys()):
        raise ProfileMismatch(
            f"the profile of {reference.host!r} is of model {reference.model[:12]}, not {predicted.model[:12]}"
        )
    here_s, there_s = (sum(each.planned(each.layers)) for each in (predicted, reference))
    factor = here_s / there_s if there_s > 0 else 1.0
    codecs = {
        tensor: {
            name: CodecCost(cost.size_bytes, cost.encode_s * factor, cost.decode_s * factor)
            for name, cost in costs.items()
        }
        for tensor, costs in reference.codecs.items()
    }
    stage_s, message_s = predicted.stage_s, predicted.message_s
    machine = dict(predicted.machine)
    if codecs:
        machine["codecs"] = f"as measured on {reference.host}, times {factor:.3g}"
    if not stage_s and not message_s and (reference.stage_s or reference.message_s):
        stage_s, message_s = reference.stage_s * factor, reference.message_s * factor
        machine["handling"] = (
            f"a stage and a message scaled from what was measured on {reference.host} over loopback, times {factor:.3g}"
        )
    return replace(predicted, codecs=codecs, stage_s=stage_s, message_s=message_s, machine=machine)
