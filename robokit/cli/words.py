"""Options that several commands share."""

from typing import Annotated

from tyro.conf import Positional, arg

What = Positional[Annotated[str, arg(metavar="NAME|RUN|FILE.onnx")]]
OUTPUT = arg(aliases=["-o"])
Trust = Annotated[bool, arg(help="run the task file that the data names, wherever it lies: docs/trust.md")]
Track = Annotated[
    str | None,
    arg(help="metrics also to wandb, trackio or mlflow, as KIND or KIND:PROJECT: docs/trackers.md"),
]
