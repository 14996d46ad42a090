"""Where a training computes: the device that was asked for, and whether anything can be compiled for it."""

import os

import torch

from robokit.compute import processes
from robokit.compute.compile import compiler_works, missing
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
    """The device of that name; of "cuda" each of several processes has its own.

    Raises OptionError for one that cannot be used: why, what to do about it, and what else can be done.
    """
    if name.startswith("cuda:") and processes.world() > 1:
        rule = (
            f"device must be 'cuda' where {processes.world()} processes share a training: each takes its own"
        )
        raise OptionError(f"{rule}; got {name!r}")
    try:
        device = torch.device(name)
        if device.type == "cuda" and processes.world() > 1:
            device = torch.device("cuda", processes.here()[0])
            torch.cuda.set_device(device)
        # a kernel, for a GPU may be too old for those of this torch
        (torch.ones(1, device=device) + 1).item()
    except (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        known = [what for sign, what in REMEDIES.items() if sign in reason][:1]
        remedies = "; ".join([reason, *known, instead])
        raise OptionError(f"device {name!r} cannot be used: {remedies}") from error
    return device


def lacks(device: torch.device, sim: str) -> str:
    """What torch.compile needs and does not find, in words: beside CPU physics the task is compiled there."""
    found = [] if device.type == "cpu" else missing(device)
    if (device.type == "cpu" or sim == "cpu") and not compiler_works():
        found.append("working C++ compiler ($CXX, else g++)")
    return " and no ".join(found)


def cores() -> int:
    """Physics threads of each of several processes on one machine; 0: all there are."""
    sharing = processes.here()[1]
    return 0 if sharing == 1 else max(1, (os.cpu_count() or 1) // sharing)
