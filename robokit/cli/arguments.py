"""What tyro reads, as robokit says it: a whole number may be written 1e6, and a mistake is one plain line."""

import io
import re
import sys
from collections.abc import Iterable
from contextlib import redirect_stderr
from decimal import Decimal, InvalidOperation
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from robokit.errors import OptionError, did_you_mean
from robokit.learning.schedule import is_scheduled

WHOLE = ConstructorRegistry()
DIGITS = 18  # of a whole number: below 2^63, and no text of few characters fills the memory
RULE = re.compile(r"[╰─╯-]+")  # a line of tyro's box, between two parts
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def parsed(of: Any, **how: Any) -> Any:
    """`tyro.cli(of, **how)`. Raises OptionError for wrong arguments; SystemExit 0 after --help."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            found = tyro.cli(of, registry=WHOLE, **how)
    except SystemExit as end:
        if end.code == 2:
            raise OptionError(plain(said.getvalue()) + _dashed(how.get("args", ()))) from None
        raise
    sys.stderr.write(said.getvalue())  # a warning
    return found


def _dashed(words: Iterable[str]) -> str:
    """What to write instead of a path that is there and begins with a dash, as an option does."""
    found = [word for word in words if word[0:1] == "-" and Path(word.partition(":")[0]).exists()]
    return f"; a path that begins with a dash is written ./{found[0]}" if found else ""


def whole(text: str) -> int:
    """The whole number that a text writes: 1000000, 1_000_000, 1e6. ValueError for any other text."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite() or number.adjusted() >= DIGITS or number != number.to_integral_value():
        raise ValueError(f"must be a whole number, as 1000000 or 1e6, got {text!r}")
    return int(number)


@WHOLE.primitive_rule
def _whole(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[int] | None:
    if info.type is not int:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda words: whole(words[0]),
        is_instance=lambda value: isinstance(value, int) and not isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    )


@WHOLE.primitive_rule
def _scheduled(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """An option that may move: NUMBER or START,END; None where that is allowed.

    One word: of several, a task's name behind them would be taken for one.
    """
    if not is_scheduled(info.type):
        return None

    def read(words: list[str]) -> Any:
        if words == ["None"] and NoneType in get_args(info.type):
            return None
        try:
            numbers = tuple(map(float, words[0].split(",")))
        except ValueError:
            numbers = ()
        if len(numbers) not in (1, 2):
            raise ValueError(f"must be a number or START,END, got {words[0]!r}")
        return numbers[0] if len(numbers) == 1 else numbers

    def texts(value: Any) -> list[str]:
        return [",".join(map(str, value)) if isinstance(value, tuple) else str(value)]

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="NUMBER|START,END",
        instance_from_str=read,
        is_instance=lambda value: value is None or isinstance(value, int | float | tuple),
        str_from_instance=texts,
    )


def plain(box: str) -> str:
    """tyro's box of a mistake as a line: what is wrong, the nearest option, and where all are explained."""
    parts: list[list[str]] = [[]]
    title, *lines = COLOUR.sub("", box).splitlines() or [""]
    for line in lines or [title]:
        if RULE.fullmatch(text := line.strip("│ ")):
            parts.append([])
        elif text:
            parts[-1].append(text)
    message, *others = [part for part in parts if part] or [["wrong arguments"]]
    wrong = re.sub(r"^Error parsing (\S+): .*?(must be a )", r"\1 \2", " ".join(message)).rstrip(".")
    nearest = [line.split()[0] for part in others if "meant" in part[0] for line in part if line[0] == "-"]
    where = [part[-1].partition(", ")[2] for part in others if part[-1].startswith("For full helptext")]
    return wrong[:1].lower() + wrong[1:] + did_you_mean("".join(nearest[:1]), nearest, "; ".join(where))
