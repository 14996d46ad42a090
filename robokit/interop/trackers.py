"""A training's options and metrics in Weights & Biases, trackio or MLflow, through one hook.

    robokit.train("hopper", hooks=tracker("wandb:legs"))  # robokit train hopper --track wandb:legs

Where a tracker writes, and whether it opens a connection, is decided by its own settings. One that fails
while training is named in one line; the training goes on without it, as without any hook that raises.
"""

import contextlib
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from robokit.errors import OptionError, did_you_mean
from robokit.training.hooks import Event, Hook
from robokit.training.run import Run

PROJECT = "robokit"  # unless one is named
FILES = {"film": "play.mp4", "report": "report.html"}  # of the run folder, sent at the end where they are


def optional(module: str, who: str, extra: str) -> Any:
    """An optional package. Raises OptionError, with the extra to install, if it cannot be imported."""
    try:
        return import_module(module)
    except ImportError as error:
        lack = f"{who} needs {module}, which cannot be imported ({error})"
        raise OptionError(f"{lack}: pip install 'robokit[{extra}]'") from error


class Wandb:
    """Weights & Biases; also trackio, which has the same functions."""

    def __init__(self, module: ModuleType, project: str) -> None:
        self._module, self._project = module, project

    def begin(self, name: str, config: dict[str, Any]) -> None:
        wandb_s = {"id": name, "reinit": "finish_previous"} if self._module.__name__ == "wandb" else {}
        self._module.init(project=self._project, name=name, config=config, resume="allow", **wandb_s)

    def log(self, metrics: dict[str, float], steps: int) -> None:
        self._module.log(metrics, step=steps)

    def end(self, files: dict[str, Path]) -> None:
        kinds = {".mp4": self._module.Video, ".html": self._module.Html}
        if shown := {name: kinds[file.suffix](str(file)) for name, file in files.items()}:
            self._module.log(shown)
        self._module.finish()


class MLflow:
    """MLflow; a project is one of its experiments, and a resumed run is found there by its name."""

    def __init__(self, module: ModuleType, project: str) -> None:
        self._module, self._project = module, project

    def begin(self, name: str, config: dict[str, Any]) -> None:
        flow = self._module
        flow.end_run()  # of a training that ended with an error
        flow.set_experiment(self._project)
        named = {"filter_string": f"attributes.run_name = '{name}'", "output_format": "list"}
        begun = flow.search_runs(experiment_names=[self._project], **named)
        flow.start_run(run_id=begun[0].info.run_id if begun else None, run_name=name)
        if not begun:
            flow.log_params(config)

    def log(self, metrics: dict[str, float], steps: int) -> None:
        self._module.log_metrics(metrics, step=steps)

    def end(self, files: dict[str, Path]) -> None:
        for file in files.values():
            self._module.log_artifact(str(file))
        self._module.end_run()


KINDS = {"wandb": Wandb, "trackio": Wandb, "mlflow": MLflow}


def tracker(where: str) -> Hook:
    """A hook that sends a training to `where`: wandb, trackio or mlflow, then `:PROJECT` if not "robokit".

    Sent are the options at its begin, the metrics of each iteration, those of validations included, at its
    environment step, and a film and a report that are in the run folder at its end. A resumed run goes on
    in the tracker's run of its name. Raises OptionError for another tracker, or one that is not installed.
    """
    kind, _, project = where.partition(":")
    if kind not in KINDS:
        rule = f"there are {', '.join(KINDS)}, or with a project wandb:PROJECT"
        raise OptionError(f"no tracker {kind!r}{did_you_mean(kind, KINDS, rule)}")
    own = KINDS[kind](optional(kind, "--track", kind), project or PROJECT)

    def track(event: Event) -> None:
        folder = event.run.path
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for results
            if event.kind == "begin":
                own.begin(f"{folder.parent.name}-{folder.name}", _config(event.run))
            elif event.kind == "iteration":
                own.log({**event.metrics}, event.done.steps)
            elif event.kind == "end":
                own.end({name: folder / file for name, file in FILES.items() if (folder / file).is_file()})

    track.__qualname__ = kind  # named so if it fails
    return track


def _config(run: Run) -> dict[str, Any]:
    """The task, its limits and all options, without hashes and layouts."""
    own = {k: v for k, v in run.config.items() if k not in ("options", "hashes", "layouts")}
    return own | run.config["options"]
