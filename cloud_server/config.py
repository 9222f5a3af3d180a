"""The settings of the cloud server: flags, or keys of one TOML file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from splitnn.runtime.address import parse_address, require_loopback

_MIB = 2**20


def _setting(default: Any, words: str, *, shape: str = "N") -> Any:
    return field(default=default, metadata={"help": words, "shape": shape})


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to serve, where, and how much of it at once.

    Raises:
        ValueError: a value is out of range, or a public address would be served without saying so.
    """

    models: str = field(
        metadata={
            "help": "folder of packages (NAME/ or NAME/VERSION/), or names of the zoo and package.module:factory, "
            "separated by commas; read once, so that what comes later is served after a restart",
            "shape": "DIR|NAMES",
        }
    )
    listen: str = _setting("127.0.0.1:8500", "address; port 0 takes a free one", shape="HOST:PORT")
    insecure: bool = _setting(False, "serve a public address without encryption: anybody on the network may use it")
    threads: int = _setting(1, "processor cores that one request is computed on")
    engine: Literal["torch", "onnxruntime", "openvino"] = _setting(
        "torch", "what runs the stages; answers of another than torch are not bit-exact"
    )
    profile: tuple[str, ...] = _setting((), "profiles that `splitnn profile` wrote on this machine, one a model")
    profiling: Literal["background", "never"] = _setting(
        "background", "when to measure models that came without a profile; without one an agent cannot plan"
    )
    max_message_bytes: int = _setting(64 * _MIB, "largest request and largest answer")
    max_waiting: int = _setting(64, "requests that may wait; more are refused with a hint when to come again")
    max_waiting_bytes: int = _setting(512 * _MIB, "memory that requests hold while they wait")
    max_working_bytes: int = _setting(2048 * _MIB, "memory that one layer of one request may need: bounds the batch")
    grace_s: float = _setting(10.0, "seconds that requests under way get after SIGTERM", shape="SECONDS")
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", "least severity that is logged")

    def __post_init__(self) -> None:
        for name in ("threads", "max_message_bytes", "max_waiting", "max_waiting_bytes", "max_working_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name.replace('_', '-')} is at least 1, not {getattr(self, name)}")
        if not (math.isfinite(self.grace_s) and self.grace_s >= 0):
            raise ValueError(f"grace-s is a number of seconds from 0, not {self.grace_s}")
        if not self.models.strip():
            raise ValueError("models is empty; name a folder or models of the zoo")
        if self.max_message_bytes > self.max_waiting_bytes:
            raise ValueError(
                f"max-message-bytes ({self.max_message_bytes}) above max-waiting-bytes ({self.max_waiting_bytes}): "
                "the largest request could never be admitted"
            )
        parse_address(self.listen)
        if not self.insecure:
            require_loopback(self.listen)
