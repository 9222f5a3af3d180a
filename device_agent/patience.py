"""How long a request waits for the cloud, so that enough of its deadline is left to finish on the device. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """The cloud gets a multiple of what was predicted for it, but never what the device needs for the rest."""

    multiple: float = 3.0
    slack_s: float = 0.3  # a multiple of a few milliseconds would be less than a busy machine's hiccup
    reserve_multiple: float = 1.5
    reserve_slack_s: float = 0.02

    def patient_s(self, remote_s: float) -> float:
        """The longest wait for what is predicted to take ``remote_s``; a cloud that lets it pass is as good as lost."""
        return remote_s * self.multiple + self.slack_s

    def until_s(self, *, now_s: float, deadline_s: float, remote_s: float, local_s: float) -> float | None:
        """The instant at which to stop waiting; None when there is no time to ask the cloud at all.

        ``remote_s`` is the predicted time of transfer and tail, ``local_s`` that of the tail on the device. A deadline
        that the device cannot keep in any case is the cloud's alone.
        """
        return self.until_answered_s(
            now_s=now_s, deadline_s=deadline_s, remote_s=remote_s, local_s=local_s, answer_s=local_s
        )

    def until_answered_s(
        self, *, now_s: float, deadline_s: float, remote_s: float, local_s: float, answer_s: float
    ) -> float | None:
        """The same where an exit on the device can answer after ``answer_s``, which is at most ``local_s``.

        The whole model's answer comes first, from the cloud or from here; where only the cloud can give it in time, it
        gets all but what the exit needs: nothing when the exit has answered already. Where the exit would be late, too,
        it gets all.
        """
        reserve_s = local_s * self.reserve_multiple + self.reserve_slack_s
        patient_s = now_s + self.patient_s(remote_s)
        if now_s + remote_s <= deadline_s - reserve_s:
            return min(patient_s, deadline_s - reserve_s)
        if now_s < deadline_s < now_s + local_s and remote_s < local_s:
            if answer_s >= local_s or now_s + answer_s > deadline_s:
                return deadline_s
            kept_s = answer_s * self.reserve_multiple + self.reserve_slack_s if answer_s else 0.0
            until_s = deadline_s - kept_s
            return until_s if now_s + remote_s <= until_s else None
        return None
