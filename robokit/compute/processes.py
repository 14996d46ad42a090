"""Several processes of one training, started by torchrun; without torchrun there is one.

    torchrun --nproc-per-node 2 -m robokit train go2_walk

Each process runs its share of the simulations. Gradients and statistics are summed or averaged over all
processes (`total`, `mean`) on the learner's device, so that every process holds the same networks.
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

PATIENCE = timedelta(hours=2)  # timeout of waiting for another process, which may validate or write
_world, _rank = 1, 0  # plain numbers: constants in a compiled graph


def world() -> int:
    """Number of processes."""
    return _world


def rank() -> int:
    """Index of this process; process 0 writes files and prints."""
    return _rank


def here() -> tuple[int, int]:
    """Index of this process among the processes on this machine, and the number of those."""
    if _world == 1:
        return 0, 1
    return int(os.environ.get("LOCAL_RANK", _rank)), int(os.environ.get("LOCAL_WORLD_SIZE", _world))


def total(x: Tensor) -> Tensor:
    """The sum of x over all processes, bit-equal in each, detached; x itself if there is one process."""
    if _world == 1:
        return x
    x = x.detach().clone()
    dist.all_reduce(x)
    return x


def mean(x: Tensor) -> Tensor:
    """The mean of x over all processes, equally weighted, detached; x itself if there is one process."""
    return x if _world == 1 else total(x) / _world


def agreed(value: Any) -> Any:
    """The value of process 0, in all processes; any value that can be pickled."""
    if _world == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def everyone(value: Any) -> list[Any]:
    """The values of all processes, by `rank`; any values that can be pickled."""
    if _world == 1:
        return [value]
    box = [value] * _world
    dist.all_gather_object(box, value)
    return box


def launch() -> str | None:
    """A name for one call of torchrun, the same after it restarts its processes; None without torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    return f"{socket.gethostname()} {os.environ['TORCHELASTIC_RUN_ID']} {os.getppid()}"


def restarted() -> bool:
    """Whether torchrun started this process again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Context in which `world` is 1: without collective operations, for trials of this process alone."""
    global _world
    before, _world = _world, 1
    try:
        yield
    finally:
        _world = before


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Context in which the processes started by torchrun are connected; within another one it does nothing.

    Raises OptionError if WORLD_SIZE is not 1 and the processes cannot be connected.
    """
    global _world, _rank
    if (count := os.environ.get("WORLD_SIZE", "1")) == "1" or _world > 1:
        yield
        return
    try:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, **_meeting(), timeout=PATIENCE)
    except (ValueError, RuntimeError) as error:
        rule = f"WORLD_SIZE={count} needs as many processes, started by torchrun"
        raise OptionError(f"{rule}; they cannot be joined: {error}") from error
    _world, _rank = dist.get_world_size(), dist.get_rank()
    yield
    # not after an error: nccl waits for CUDA graphs with its calls, which the traceback keeps alive
    _world, _rank = 1, 0
    gc.collect()
    dist.destroy_process_group()


def _meeting() -> dict[str, Any]:
    """Arguments of init_process_group, with a store of its own for each restart.

    torchrun's store survives a restart, and restarted processes would find the addresses of dead ones in it.
    On one machine all have the same restart count, which separates them; on several they may not, and the
    default is kept.
    """
    if os.environ.get("LOCAL_WORLD_SIZE") != os.environ["WORLD_SIZE"]:
        return {}
    store, number, count = next(iter(dist.rendezvous("env://")))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return {"store": dist.PrefixStore(f"attempt {attempt}", store), "rank": number, "world_size": count}
