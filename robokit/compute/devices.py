"""Where a training computes: the torch device of a name, and the physics threads of one process."""

import os

import torch

from robokit.compute import processes
from robokit.errors import OptionError

INSTALL = "install a torch built for CUDA (https://pytorch.org/get-started/locally)"
REMEDIES = {  # what torch says of a device -> what to do
    "not compiled with CUDA": INSTALL,
    "no NVIDIA driver": "install NVIDIA's driver",
    "driver on your system is too old": f"update NVIDIA's driver to one for CUDA {torch.version.cuda}, "
    "or install a torch built for the CUDA of the driver",
    "No CUDA GPUs": "look at CUDA_VISIBLE_DEVICES and nvidia-smi",
    "invalid device ordinal": "see nvidia-smi -L for those that are there, from cuda:0 on",
    "no kernel image": "this GPU needs another build of torch",
}


def find_device(name: str, instead: str = "--device cpu runs anywhere") -> torch.device:
    """The device of that name; "cuda" is another GPU in each of several processes.

    Raises OptionError for one that cannot be used, see `usable`.
    """
    if name.startswith("cuda:") and processes.world() > 1:
        rule = (
            f"device must be 'cuda' where {processes.world()} processes share a training: each takes its own"
        )
        raise OptionError(f"{rule}; got {name!r}")
    shared = name == "cuda" and processes.world() > 1
    device = usable(f"cuda:{processes.here()[0]}" if shared else name, instead)
    if shared:
        torch.cuda.set_device(device)
    return device


def usable(name: str, instead: str) -> torch.device:
    """The torch device of that name, after one kernel has run on it.

    Raises OptionError with torch's reason, what to do about it, and what to choose `instead`.
    """
    try:
        device = torch.device(name)
        # a kernel, for a GPU may be too old for those of this torch
        (torch.ones(1, device=device) + 1).item()
    except (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        known = [what for sign, what in REMEDIES.items() if sign in reason][:1]
        remedies = "; ".join([reason, *known, instead])
        raise OptionError(f"device {name!r} cannot be used: {remedies}") from error
    return device


def cores() -> int:
    """Physics threads of each of several processes on one machine; 0: all there are."""
    sharing = processes.here()[1]
    return 0 if sharing == 1 else max(1, (os.cpu_count() or 1) // sharing)
