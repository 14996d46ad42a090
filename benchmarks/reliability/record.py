"""What a row is, what its trials found, and the JSONL record that a second start goes on with."""

import json
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIZES = ("small", "medium", "night")
Facts = dict[str, Any]  # of one trial: "ok", "what" was done and, if it failed, "why"; a row adds its own
WORDS = 240  # characters of a reason that are kept


@dataclass(frozen=True)
class Place:
    """Where and how a trial runs."""

    home: Path  # the row's folder, for what its trials share
    folder: Path  # the trial's own, deleted afterwards
    number: int  # of the trial
    rng: random.Random  # seeded by the row and the number
    size: str


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    name: str
    asked: str  # the figure, in words
    trials: Mapping[str, int]  # by size
    trial: Callable[[Place], Facts]  # called in a process of its own
    seconds: float = 900.0  # after which a trial has failed
    prepare: Callable[[Path, str], None] = lambda home, size: None  # (home, size), in a process of its own
    figure: Callable[[list[Facts]], str] = lambda found: ""  # more words for the table


class Record:
    """The trials that are done, one short JSON line each, written at once."""

    def __init__(self, path: Path, about: Facts) -> None:
        self.path, self.done = path, dict[tuple[str, int], Facts]()
        self.about = [about]
        if path.exists():
            lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
            self.about = [*(line for line in lines if "row" not in line), about]
            self.done = {(line.pop("row"), line.pop("trial")): line for line in lines if "row" in line}
        path.parent.mkdir(parents=True, exist_ok=True)
        if about not in self.about[:-1]:
            self._write(about)

    def add(self, row: str, trial: int, facts: Facts) -> None:
        self.done[row, trial] = facts
        self._write({"row": row, "trial": trial, **facts})

    def of(self, row: str) -> dict[int, Facts]:
        return {trial: facts for (name, trial), facts in sorted(self.done.items()) if name == row}

    def _write(self, line: Facts) -> None:
        text = json.dumps(line)
        with self.path.open("ab+") as file:
            if file.tell() and self.path.read_bytes()[-1:] != b"\n":  # a kill cut the last line
                text = "\n" + text
            file.write(text.encode() + b"\n")


def good(what: str, **more: Any) -> Facts:
    return {"ok": True, "what": what, **more}


def bad(what: str, why: str, **more: Any) -> Facts:
    text = " ".join(why.split())
    short = text if len(text) <= WORDS else f"{text[: WORDS // 2]} ... {text[-WORDS // 2 :]}"
    return {"ok": False, "what": what, "why": short, **more}


def judged(what: str, faults: Iterable[str], **more: Any) -> Facts:
    """good without faults, else bad with all of them."""
    text = "; ".join(faults)
    return bad(what, text, **more) if text else good(what, **more)


def table(rows: Iterable[Row], record: Record, size: str) -> str:
    """Markdown: what was asked, how many trials were made, how many failed."""
    lines = ["| row | asked | done of asked | failed | |", "|---|---|---|---|---|"]
    for row in rows:
        found = record.of(row.name)
        failed = sum(not facts["ok"] for facts in found.values())
        done = f"{len(found)} of {row.trials[size]}" if found else "not run"
        more = row.figure([*found.values()]) if found else ""
        lines.append(f"| {row.name} | {row.asked} | {done} | {failed if found else ''} | {more} |")
    made = [", ".join(str(value) for value in about.values()) for about in record.about]
    return "\n".join([*dict.fromkeys(made), "", *lines])


def failures(rows: Iterable[Row], record: Record) -> list[str]:
    """Each failure with the options that repeat it alone."""
    return [
        f"--row {row.name} --trial {number}: {facts['what']}: {facts['why']}"
        for row in rows
        for number, facts in record.of(row.name).items()
        if not facts["ok"]
    ]
