"""The command `robokit`.

Exit codes: 0 done; 1 a check, an evaluation or the export gate found a failure; 2 wrong input, or a training
that cannot continue, with a message of one line; 130 and 143 interrupted by Ctrl-C or SIGTERM, the training
saved. Results go to standard output, messages to standard error.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from io import FileIO, TextIOWrapper
from pathlib import Path
from traceback import extract_tb
from types import FrameType
from typing import Any

from robokit import __version__
from robokit.cli.verbs import VERBS
from robokit.errors import Error, ExportError, OptionError, did_you_mean, reason, tell

USAGE = "usage: robokit COMMAND ...\n\n{commands}\n\nrobokit COMMAND --help explains every option."
HELP = {"-h", "--help"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command from `arguments`, else sys.argv; returns the exit code. SystemExit as from `parse`."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: idle threads would slow the physics
    _open_streams()
    if isinstance(sys.stdout, TextIOWrapper):  # a path is printed whatever its bytes are
        sys.stdout.reconfigure(errors="surrogateescape" if _is_utf8(sys.stdout) else "backslashreplace")
    try:
        with _terminable():
            return _run((sys.argv[1:] if arguments is None else arguments) or ["--help"])
    except KeyboardInterrupt as interrupt:
        if arguments is None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C while Python ends: no traceback
        tell("robokit: interrupted")
        return 128 + (signal.SIGTERM if interrupt.args else signal.SIGINT)


def _open_streams() -> None:
    """Open what a shell has closed (`>&-`): a file would get its number, and a library finds no stream."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, TextIOWrapper(FileIO(number, "w", closefd=False)))


def _is_utf8(stream: TextIOWrapper) -> bool:
    return stream.encoding.lower().replace("-", "") == "utf8"


@contextmanager
def _terminable() -> Iterator[None]:
    """Context in which SIGTERM raises KeyboardInterrupt(SIGTERM), so that all cleanup runs as at Ctrl-C."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    if threading.current_thread() is not threading.main_thread():  # which alone may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(arguments: Sequence[str]) -> int:
    (name, *rest), code = arguments, 0
    try:
        if name in {*HELP, "--version"}:
            listed = "\n".join(f"  {name:<10}{verb.line}" for name, verb in VERBS.items())
            print(f"robokit {__version__}" if name == "--version" else USAGE.format(commands=listed))
            return 0
        if name not in VERBS:
            hint = did_you_mean(name, VERBS, f"there are {', '.join(VERBS)}")
            raise OptionError(f"no command {name!r}{hint}")
        _check_folder()
        with _joined() if name == "train" else nullcontext():
            code = parse(name, rest)()
        sys.stdout.flush()  # here, so that a closed pipe raises inside the try
        return code
    except BrokenPipeError:  # robokit ... | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or 128 + signal.SIGPIPE
    except Exception as error:
        text = _lacking(name, error) or _wrong(error)
        if text is None:
            raise
        tell(f"robokit: {' '.join(text.split())}")  # MuJoCo's messages have several lines
        return 1 if isinstance(error, ExportError) else 2


def _check_folder() -> None:
    """Raise OptionError if the working folder was removed: torch's libraries would end the process."""
    try:
        os.getcwd()
    except OSError as error:
        raise OptionError(f"the working folder is no more ({error.strerror}): cd to one that is") from error


def _joined() -> AbstractContextManager[None]:
    from robokit.compute.processes import joined

    return joined()


def _lacking(verb: str, error: Exception) -> str | None:
    """The message for what the installation lacks; None: the error has another cause."""
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] != "robokit":
        if error.name in ("stable_baselines3", "sb3_contrib"):
            return f"{verb} needs {error.name}, which is not installed: pip install 'robokit[sb3]'"
        only = "with numpy and onnxruntime alone there is `robokit check FILE.onnx`"
        return f"{verb} needs {error.name}, which is not installed: pip install robokit; {only}"
    if any(Path(frame.filename).name == "gl_context.py" for frame in extract_tb(error.__traceback__)):
        chosen = f"MUJOCO_GL={os.environ.get('MUJOCO_GL', '')}"
        return f"MuJoCo cannot load the renderer of {chosen}: unset it, or apt install libegl1 or libosmesa6"
    return None


def _wrong(error: Exception) -> str | None:
    """The message for wrong input or a file that the system refuses; None: the error is robokit's own."""
    if isinstance(error, Error | OSError):
        return reason(error)
    from robokit.controller import ContractError, ObservationError
    from robokit.filter import FilterError

    return str(error) if isinstance(error, ContractError | FilterError | ObservationError) else None


def parse(name: str, arguments: Sequence[str]) -> Callable[[], int]:
    """The command, to be called for its exit code.

    Raises OptionError for a wrong option; SystemExit 0 after --help.
    """
    if name == "check":
        from robokit.cli.contract import file_check

        if of_file := file_check(arguments):
            return of_file
    from robokit.cli.arguments import parsed

    if name == "train":
        return _parse_train(arguments)
    if name == "sweep":
        from robokit.cli.sweep import parse_sweep

        return parse_sweep(arguments, _parse_train)
    if name == "plan":
        from robokit.cli.plan import parse_plan

        return parse_plan(arguments)
    return parsed(VERBS[name].load(), args=arguments, prog=f"robokit {name}")


@dataclass(frozen=True)
class Kind:
    """Options that are read first, because they determine which others exist."""

    algo: str | None = None
    like: str | None = None
    resume: Path | None = None
    init_from: str | None = None
    trust: bool = False


def _parse_train(arguments: Sequence[str]) -> Callable[[], int]:
    """A Resume for --resume, else a Train: parsed for the task, then again with its recipe as defaults."""
    from robokit.calls.resolve import named_run
    from robokit.calls.training import BEGIN_FROM, like_run
    from robokit.cli.arguments import parsed
    from robokit.cli.train import Resume, Train, limit_options
    from robokit.limits.limit import with_values
    from robokit.task.checks.rules import check_limits
    from robokit.task.lookup.find import load_task
    from robokit.task.lookup.source import known_tasks
    from robokit.training.setup.build import Setup, algorithm, options
    from robokit.training.setup.restore import options_of, place_of

    show_help, plain = bool(HELP & set(arguments)), [a for a in arguments if a not in HELP]
    kind, _ = parsed(Kind, args=plain, prog="robokit train", return_unknown_args=True)
    if kind.resume and kind.init_from:
        raise OptionError("--resume goes on with a run, --init-from begins a new one: give one of the two")
    if kind.resume and not show_help:
        resume, extra = parsed(Resume, args=arguments, prog="robokit train", return_unknown_args=True)
        if extra:
            new = "only --steps, --save-every, --track, --json and where the task is (--task, --trust)"
            rule = f"a resumed run keeps its task and options; {new} may be new, got {' '.join(extra)}"
            raise OptionError(f"{rule}; {BEGIN_FROM.format(kind.resume)}")
        return resume
    like = named_run(kind.like) if kind.like else None
    setup = options_of(like)[0] if like else Setup(algo=kind.algo or Setup.algo)
    algo, prog = kind.algo or setup.algo, f"robokit train{f' --algo {kind.algo}' if kind.algo else ''}"
    default = algorithm(algo).Config()
    _check_options(arguments, algo)

    def read(arguments: Sequence[str], config: Any, limits: Any, named: str | None = None) -> Any:
        of: Any = Train[type(config), type(limits)]
        return parsed(of, args=arguments, prog=prog, default=of(config, setup, limits, named))

    given, others = _limits(plain)
    task = read(others, default, limit_options({})).task
    if task is None and like:
        task = place_of(like, kind.trust)
    if task is None and not show_help:
        raise OptionError(f"which task? robokit train TASK: {', '.join(known_tasks())}, or a file.py")
    if task is None:
        return read(arguments, default, limit_options({}))
    if like:
        found, setup, config = like_run(like, task, kind.algo)
    else:
        found = load_task(task)
        config = options(found, algo)
    check_limits(found)
    with_values(found.limits, dict.fromkeys(given, 0.0))
    return read(arguments, config, limit_options(found.limits), task)


def _check_options(arguments: Sequence[str], algo: str) -> None:
    """Raise OptionError for an option of other algorithms only."""
    from robokit.training.setup.build import check_owners

    given = [a for a in arguments if a.startswith("--")]
    check_owners({a.partition("=")[0].removeprefix("--").replace("-", "_"): a for a in given}, algo)


def _limits(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """NAMEs (`_` for `-`) of `--limits.NAME VALUE` and `--limits.NAME=VALUE`; the other arguments."""
    names, others, rest = list[str](), list[str](), iter(arguments)
    for this in rest:
        if not this.startswith("--limits."):
            others.append(this)
            continue
        name, equals, _ = this.removeprefix("--limits.").partition("=")
        names.append(name.replace("-", "_"))
        if not equals:
            next(rest, None)
    return names, others


if __name__ == "__main__":
    sys.exit(main())
