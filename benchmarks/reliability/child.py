"""Functions and commands in forked children: a warm start costs milliseconds, a kill costs nothing.

The process that forks has imported everything and runs nothing, so it has one thread.
"""

import contextlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEGABYTE = 1 << 20
CRASHED = 70  # exit code of a child with a traceback
TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True)
class Ended:
    """How a child ended."""

    code: int | None  # None: killed
    signal: int  # that killed it; 0: none
    why: str  # "time" or "memory", if it was killed for that
    value: Any  # what the function returned, through JSON
    text: str  # standard output and error
    out: str  # standard output
    seconds: float
    peak: float  # MB of resident memory, sampled

    @property
    def last(self) -> str:
        """The last line that was said."""
        lines = self.text.strip().splitlines()
        return lines[-1] if lines else ""

    @property
    def crash(self) -> str:
        """What is wrong with any end that is neither success nor a refusal; "" if nothing."""
        if self.why:
            return f"over its {self.why} ({self.seconds:.0f} s, {self.peak:.0f} MB)"
        if self.signal:
            return f"died of signal {self.signal}"
        return f"traceback: {self.last}" if TRACEBACK in self.text else ""


def forked(
    function: Callable[[], Any],
    folder: Path,
    seconds: float = 120.0,
    megabytes: float = 4096.0,
    watch: Callable[[int], None] | None = None,
) -> Ended:
    """Run a function in a child whose working folder is `folder`; it may return what JSON can hold.

    watch: called every few milliseconds with the child's process id; it may kill it.
    """
    out, err, value = (_place(folder, name) for name in ("out", "err", "value"))
    sys.stdout.flush()
    began = time.monotonic()
    pid = os.fork()
    if not pid:
        _child(function, folder, out, err, value)
    why, peak, status = "", 0.0, None
    while status is None:
        found, code = os.waitpid(pid, os.WNOHANG)
        if found:
            status = code
            break
        peak = max(peak, resident(pid))
        why = "time" if time.monotonic() - began > seconds else "memory" if peak > megabytes else ""
        if why:
            _kill_group(pid)
            status = os.waitpid(pid, 0)[1]
        elif watch:
            watch(pid)
        time.sleep(0.002 if watch else 0.01)
    _kill_group(pid)  # whatever it has left running
    said = [path.read_text(errors="replace") if path.exists() else "" for path in (out, err)]
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(value.read_bytes())
        return _ended(status, why, found, said, began, peak, (out, err, value))
    return _ended(status, why, None, said, began, peak, (out, err, value))


def _ended(
    status: int, why: str, value: Any, said: list[str], began: float, peak: float, files: Sequence[Path]
) -> Ended:
    for path in files:
        path.unlink(missing_ok=True)
    dead = os.WIFSIGNALED(status)
    code, number = (None, os.WTERMSIG(status)) if dead else (os.WEXITSTATUS(status), 0)
    return Ended(code, number, why, value, "".join(said), said[0], time.monotonic() - began, peak)


def _place(folder: Path, name: str) -> Path:
    """A file beside the working folder, so that what the child does to its folder does not touch it."""
    return folder.parent / f"said-{os.getpid()}-{time.monotonic_ns()}-{name}"


def _child(function: Callable[[], Any], folder: Path, out: Path, err: Path, value: Path) -> None:
    code = 0
    write, flags = os.open, os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    place = write(value, flags, 0o644)
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, path in ((1, out), (2, err)):
            os.dup2(write(path, flags, 0o644), number)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(folder)
        os.write(place, json.dumps(function()).encode())
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001  it is what a trial looks for
        traceback.print_exc()
        code = CRASHED
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def command(
    arguments: Sequence[str],
    folder: Path,
    seconds: float = 120.0,
    before: Callable[[], None] = lambda: None,
    watch: Callable[[int], None] | None = None,
) -> Ended:
    """`robokit ARGUMENTS` in a child; before: called in it first."""

    def run() -> None:
        from robokit.cli.command import main

        before()
        sys.exit(main([*arguments]))

    return forked(run, folder, seconds, watch=watch)


def resident(pid: int | str = "self") -> float:
    """MB of resident memory; 0.0 of a process that is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * resource.getpagesize() / MEGABYTE
