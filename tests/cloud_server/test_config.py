"""The server's settings, and what it refuses to start with."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud_server.config import Config
from splitnn.runtime.settings import read


def config(*arguments: str) -> Config:
    return read(Config, ["--models", "resnet18", *arguments], program="splitnn-server", purpose="")


def test_one_file_holds_what_the_flags_say(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('models = "resnet18"\nlisten = "127.0.0.1:0"\nthreads = 2\nprofile = ["a.json"]\ngrace-s = 3\n')
    from_file = read(Config, ["--config", str(file)], program="splitnn-server", purpose="")
    assert from_file == config("--listen", "127.0.0.1:0", "--threads", "2", "--profile", "a.json", "--grace-s", "3")


@pytest.mark.parametrize("listen", ["0.0.0.0:8500", "[::]:8500", "192.0.2.1:8500", "server.example:8500"])
def test_a_public_address_needs_a_word(listen: str) -> None:
    with pytest.raises(ValueError, match=r"other machines.*--insecure"):
        config("--listen", listen)
    assert config("--listen", listen, "--insecure").listen == listen


@pytest.mark.parametrize("listen", ["127.0.0.1:8500", "localhost:0", "[::1]:8500", "127.1.2.3:1"])
def test_the_own_machine_needs_none(listen: str) -> None:
    assert config("--listen", listen).listen == listen


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--listen 8500", "HOST:PORT"),
        ("--listen 127.0.0.1:65536", "0 to 65535"),
        ("--listen 127.0.0.1:http", "HOST:PORT"),
        ("--threads 0", "threads is at least 1, not 0"),
        ("--max-waiting -1", "max-waiting is at least 1"),
        ("--grace-s nan", "grace-s"),
        ("--max-message-bytes 1000 --max-waiting-bytes 999", "never be admitted"),
        ("--profiling sometimes", "sometimes"),
    ],
)
def test_values_out_of_range_are_refused_by_name(flags: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config(*flags.split())
