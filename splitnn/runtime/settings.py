"""The settings of a program: one frozen dataclass, read from one TOML file and from flags of the same names.

A field ``max_waiting: int = field(default=64, metadata={"help": "..."})`` is the flag ``--max-waiting 64`` and the key
``max-waiting = 64``. Flags win over the file, the file over the defaults. Fields are str, int, float, bool or
``tuple[str, ...]``, or a Literal of strings; the dataclass checks their values itself.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

BAD_INPUT = 2
"""Exit status of a program that was given what it cannot use; one line on stderr says what."""

EngineName = Literal["torch", "onnxruntime", "openvino"]
"""The engines that the programs run stages on."""

SERVING_ENGINES: tuple[str, ...] = get_args(EngineName)

_T = TypeVar("_T")
_Kinds = Mapping[str, Any]  # the type of each setting, by flag


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors take one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def read(settings: type[_T], arguments: Sequence[str] | None = None, *, program: str, purpose: str) -> _T:
    """The settings that the command line (by default the process's own) and the file that it names ask for.

    Raises:
        ValueError: an unknown flag or key, a value of another type, a missing setting, or what the dataclass refuses.
        OSError: the file cannot be read.
    """
    kinds = {_flag(name): kind for name, kind in get_type_hints(settings).items()}
    fields = dataclasses.fields(settings)  # type: ignore[arg-type]
    given = vars(_parser(fields, kinds, program, purpose).parse_args(arguments))
    path = given.pop("config", None)
    chosen = {**(_from_file(Path(path), kinds) if path else {}), **given}
    required = [f for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    for needed in required:
        if needed.name not in chosen:
            raise ValueError(f"--{_flag(needed.name)} is missing (see {program} --help)")
    return settings(**chosen)


def _parser(
    fields: Sequence[dataclasses.Field[Any]], kinds: _Kinds, program: str, purpose: str
) -> argparse.ArgumentParser:
    parser = _Parser(prog=program, description=purpose, argument_default=argparse.SUPPRESS, allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE", help="TOML file with the same settings; flags win over it")
    for each in fields:
        words = str(each.metadata.get("help", ""))
        if each.default not in (dataclasses.MISSING, "", (), False):
            words += f" (default {each.default})"
        options = {"dest": each.name, "help": words.replace("%", "%%"), **_options(kinds[_flag(each.name)], each)}
        parser.add_argument(f"--{_flag(each.name)}", **options)
    return parser


def _options(kind: Any, setting: dataclasses.Field[Any]) -> dict[str, Any]:
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind)}
    if get_origin(kind) is tuple:
        return {"type": _words, "metavar": "A,B,..."}
    return {"type": kind, "metavar": setting.metadata.get("shape", kind.__name__)}


def _from_file(path: Path, kinds: _Kinds) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not TOML: {error}") from error
    for key in table:
        if key not in kinds:
            near = difflib.get_close_matches(key, kinds, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(kinds))}"
            raise ValueError(f"{path}: unknown key {key!r}; {hint}")
    return {key.replace("-", "_"): _typed(value, kinds[key], f"{path}: {key}") for key, value in table.items()}


def _typed(value: Any, kind: Any, where: str) -> Any:
    """A value of TOML as the field's type; nothing is guessed but an integer that stands for a float."""
    if get_origin(kind) is tuple:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise ValueError(f"{where} came as {value!r}; expected a list of strings")
    if get_origin(kind) is Literal:
        if value in get_args(kind):
            return value
        raise ValueError(f"{where} came as {value!r}; expected one of {', '.join(get_args(kind))}")
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"{where} came as {value!r}; expected {kind.__name__}")
    return value


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _flag(name: str) -> str:
    return name.replace("_", "-")
