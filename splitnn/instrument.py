"""Named moments in the life of a request and of a plan.

Subclass ``Instrument`` and override the moments you care about; the rest do nothing. The algorithms call these and
never log, so that a trace, a metric and a progress line are three instruments and not three copies of the code.
"""


class Instrument:
    """An observer. Every method is optional and must return quickly; exceptions propagate to the caller."""

    def stage_started(self, *, request_id: str, host: str, layers: int) -> None:
        """A host begins to execute its part of a request."""

    def stage_finished(self, *, request_id: str, host: str, seconds: float) -> None:
        """The same part has its outputs."""

    def tensor_encoded(
        self, *, request_id: str, tensor: str, codec: str, raw_bytes: int, wire_bytes: int, seconds: float
    ) -> None:
        """One crossing tensor was turned into bytes."""

    def request_sent(self, *, request_id: str, wire_bytes: int) -> None:
        """The crossing tensors left for the next host."""

    def answer_received(self, *, request_id: str, wire_bytes: int, seconds: float) -> None:
        """The next host's outputs arrived; seconds since ``request_sent``."""

    def plan_changed(self, *, old: str, new: str, reason: str) -> None:
        """Later requests follow another plan; both are one-line plans."""

    def link_estimated(self, *, bandwidth_bps: float, round_trip_s: float) -> None:
        """The estimate of the link moved."""

    def degraded(self, *, request_id: str, reason: str) -> None:
        """A request is being finished without the next host."""

    def answered_late(self, *, request_id: str, late_s: float) -> None:
        """A request's answer misses its deadline by so much."""

    def recovered(self) -> None:
        """The next host answers again."""

    def exit_taken(self, *, request_id: str, exits: str, confidence: float) -> None:
        """Exits answered a request; names as in its answer, the least confidence of its samples."""

    def audited(self, *, request_id: str, agrees: bool) -> None:
        """The whole model was asked for a sample that an exit had answered, and gave the same class or another."""

    def exits_doubted(self, *, agreement: float, upper: float, target: float, is_alarm: bool) -> None:
        """Exits agree with the whole model less often than they should, or (no alarm) no longer so."""
