"""Several processes of one training, as torchrun starts them; one, where it did not.

    torchrun --nproc-per-node 2 -m robokit train go2_walk

Each owns its share of the simulations. What the algorithm takes from all of them, gradients and statistics,
is summed over them (`total`, `mean`) on the learner's device, so that every process holds the same networks.
"""

import contextlib
import gc
import os
import socket
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from robokit.errors import OptionError

PATIENCE = timedelta(hours=2)  # that processes wait for one of them, which may validate or write meanwhile
STREAM = 0x9E3779B9  # between the seeds of two processes: far apart in the 32 bits that torch takes of them
_world, _rank = 1, 0  # plain numbers: a graph takes them for constants


def world() -> int:
    """How many processes there are."""
    return _world


def rank() -> int:
    """Which of them this is; 0 writes and speaks."""
    return _rank


def here() -> tuple[int, int]:
    """Which of the processes on this machine this is, and how many those are."""
    if _world == 1:
        return 0, 1
    return int(os.environ.get("LOCAL_RANK", _rank)), int(os.environ.get("LOCAL_WORLD_SIZE", _world))


def total(x: Tensor) -> Tensor:
    """The sum of x over all processes, the same bits in each of them; x itself where there is one."""
    if _world == 1:
        return x
    x = x.detach().clone()
    dist.all_reduce(x)
    return x


def mean(x: Tensor) -> Tensor:
    """The mean of x over all processes; x itself where there is one."""
    return x if _world == 1 else total(x) / _world


def agreed(value: Any) -> Any:
    """What the first process says, for all: numbers, texts and the like."""
    if _world == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def everyone(value: Any) -> list[Any]:
    """What each process says."""
    if _world == 1:
        return [value]
    box = [value] * _world
    dist.all_gather_object(box, value)
    return box


def seed(given: int) -> int:
    """A process's own seed: of its simulations, and of its draws."""
    return (given + _rank * STREAM) % 2**32


def launch() -> str | None:
    """What names one call of torchrun, and stays the same when that starts its processes again."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    return f"{socket.gethostname()} {os.environ['TORCHELASTIC_RUN_ID']} {os.getppid()}"


def restarted() -> bool:
    """Whether torchrun has started this process in place of one that died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Inside, this process waits for no other: to try something out as often as it likes."""
    global _world
    before, _world = _world, 1
    try:
        yield
    finally:
        _world = before


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Inside, this is one of the processes that torchrun started.

    Raises OptionError where WORLD_SIZE says that there are several and they cannot be found.
    """
    global _world, _rank
    if (count := os.environ.get("WORLD_SIZE", "1")) == "1":
        yield
        return
    try:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, **_meeting(), timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:
        rule = f"WORLD_SIZE={count} asks for so many processes, as torchrun starts them"
        raise OptionError(f"{rule}; they cannot be joined: {error}") from error
    _world, _rank = dist.get_world_size(), dist.get_rank()
    yield
    # not after an error: nccl waits for graphs that hold its calls, and the error holds those
    _world, _rank = 1, 0
    gc.collect()
    dist.destroy_process_group()


def _meeting() -> dict[str, Any]:
    """Where the processes find each other.

    torchrun's store outlives those that it starts again, which would look for one another where the dead
    were. On one machine all know how often that was; on several they need not, and it is left as it is.
    """
    if os.environ.get("LOCAL_WORLD_SIZE") != os.environ["WORLD_SIZE"]:
        return {}
    store, number, count = next(iter(dist.rendezvous("env://")))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return {"store": dist.PrefixStore(f"attempt {attempt}", store), "rank": number, "world_size": count}
