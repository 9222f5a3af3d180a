"""What the agent can be told: flags, or keys of one TOML file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from splitnn.cost.accuracy import parse_share
from splitnn.cost.codec_names import no_codec
from splitnn.cost.network import parse_link
from splitnn.runtime.address import parse_address, require_loopback
from splitnn.runtime.settings import EngineName
from splitnn.transport.codec import CODECS, USUAL


def _about(text: str, shape: str = "") -> dict[str, Any]:
    return {"help": text, **({"shape": shape} if shape else {})}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Which model, where the cloud is, and how to run the one with the other.

    Raises:
        ValueError: a value that cannot be used; names its flag.
    """

    server: str = field(metadata=_about("the cloud server; it may start later", "HOST:PORT"))
    model: str = field(metadata=_about("a name from the zoo, package.module:factory, or a packed folder", "NAME|DIR"))
    listen: str = field(default="127.0.0.1:0", metadata=_about("where applications find the agent", "HOST:PORT"))
    name: str = field(default="", metadata=_about("what the model is called on both sides; the model's own by default"))
    codecs: tuple[str, ...] = field(
        default=("raw",),
        metadata=_about(f"that tensors may travel in; lossy ones if named: {', '.join(USUAL)} ..."),
    )
    max_accuracy_drop: str = field(
        default="",
        metadata=_about("of answers that may be lost, as 0.5%: lossy codecs that --profile has calibrated", "SHARE"),
    )
    plan: str = field(default="auto", metadata=_about("auto, device, cloud, or a plan's line to stay with", "PLAN"))
    link: str = field(default="10Mbps/20ms", metadata=_about("what to believe of the link at first", "RATE/RTT"))
    profile: str = field(default="", metadata=_about("this device's profile; measured at the start without", "FILE"))
    save_profile: str = field(default="", metadata=_about("where to keep what was measured", "FILE"))
    engine: EngineName = field(
        default="torch",
        metadata=_about("what runs this device's stages; with another than torch plans are not exact"),
    )
    slowdown: float = field(
        default=1.0,
        metadata=_about("be a device X times slower, by sleeping; --profile is then unscaled, or scaled by X", "X"),
    )
    deadline_s: float = field(default=30.0, metadata=_about("the longest that a request may take", "SECONDS"))
    grace_s: float = field(default=10.0, metadata=_about("for requests under way when told to stop", "SECONDS"))
    audit_share: float = field(
        default=0.01,
        metadata=_about("of the requests that exits answer: checked by the cloud when it is free", "P"),
    )
    audit_target: float = field(
        default=0.9, metadata=_about("of these checks must agree; else a warning, and splitnn.exits is unhealthy", "P")
    )
    max_waiting: int = field(default=64, metadata=_about("requests that may wait for the processor", "N"))
    insecure: bool = field(default=False, metadata=_about("serve a public address: anybody on the network may use it"))
    log_level: Literal["debug", "info", "warning", "error"] = field(
        default="info", metadata=_about("least severity that is logged")
    )

    def __post_init__(self) -> None:
        if unknown := [codec for codec in self.codecs if codec not in CODECS]:
            raise ValueError(f"--codecs: {no_codec(unknown[0])}")
        if not self.codecs:
            raise ValueError("--codecs names at least one codec, such as raw")
        if self.max_accuracy_drop:
            if not self.profile:
                raise ValueError("--max-accuracy-drop takes a --profile that `splitnn calibrate` has written to")
            try:
                parse_share(self.max_accuracy_drop)
            except ValueError as error:
                raise ValueError(f"--max-accuracy-drop: {error}") from error
        if not (math.isfinite(self.slowdown) and self.slowdown >= 1):
            raise ValueError(f"--slowdown is a finite number of at least 1, not {self.slowdown}")
        if not (0 < self.deadline_s <= 3600):
            raise ValueError(f"--deadline-s lies between 0 and 3600, not {self.deadline_s}")
        if not (0 <= self.grace_s <= 3600):
            raise ValueError(f"--grace-s lies between 0 and 3600, not {self.grace_s}")
        for flag, share in (("audit-share", self.audit_share), ("audit-target", self.audit_target)):
            if not 0 <= share <= 1:
                raise ValueError(f"--{flag} is a share from 0 to 1, not {share}")
        if self.max_waiting < 1:
            raise ValueError(f"--max-waiting is at least 1, not {self.max_waiting}")
        for flag, parse, text in (
            ("link", parse_link, self.link),
            ("server", parse_address, self.server),
            ("listen", parse_address, self.listen),
        ):
            try:
                parse(text)
            except ValueError as error:
                raise ValueError(f"--{flag}: {error}") from error
        if not self.insecure:
            require_loopback(self.listen)
