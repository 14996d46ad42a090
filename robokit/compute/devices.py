"""The torch device for a name, and the number of physics threads of a process."""

import os

import torch

from robokit.compute import processes
from robokit.errors import OptionError

INSTALL = "install a torch built for CUDA (https://pytorch.org/get-started/locally)"
REMEDIES = {  # part of torch's error message -> remedy
    "not compiled with CUDA": INSTALL,
    "no NVIDIA driver": "install NVIDIA's driver",
    "driver on your system is too old": f"update NVIDIA's driver to one for CUDA {torch.version.cuda}, "
    "or install a torch built for the CUDA of the driver",
    "No CUDA GPUs": "look at CUDA_VISIBLE_DEVICES and nvidia-smi",
    "invalid device ordinal": "see nvidia-smi -L for those that are there, from cuda:0 on",
    "no kernel image": "this GPU needs another build of torch",
}


def find_device(name: str, instead: str = "--device cpu runs anywhere") -> torch.device:
    """The torch device of a name; with several processes "cuda" is a different GPU for each.

    Raises OptionError for a device that cannot be used, with the alternative `instead`: see `usable`. With
    several processes it does so for "cuda:1" too, and makes the GPU torch's current one.
    """
    if name.startswith("cuda:") and processes.world() > 1:
        rule = f"device must be 'cuda' where {processes.world()} processes share a training"
        raise OptionError(f"{rule}: each takes its own; got {name!r}")
    shared = name == "cuda" and processes.world() > 1
    device = usable(f"cuda:{processes.here()[0]}" if shared else name, instead)
    if shared:
        torch.cuda.set_device(device)
    return device


def usable(name: str, instead: str) -> torch.device:
    """The torch device of a name, tested by running a kernel.

    Raises OptionError with torch's reason, a remedy and the alternative `instead`.
    """
    try:
        device = torch.device(name)
        # a GPU may be too old for this torch's kernels
        (torch.ones(1, device=device) + 1).item()
    except (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        known = [what for sign, what in REMEDIES.items() if sign in reason][:1]
        remedies = "; ".join([reason, *known, instead])
        raise OptionError(f"device {name!r} cannot be used: {remedies}") from error
    return device


def cores() -> int:
    """Number of physics threads of each process on this machine; 0, meaning all cores, for one process."""
    sharing = processes.here()[1]
    return 0 if sharing == 1 else max(1, (os.cpu_count() or 1) // sharing)


def has_bf16(device: torch.device) -> bool:
    """Whether a device has units for bfloat16 products; True where torch cannot tell."""
    known = getattr(torch.cpu, "get_capabilities", dict[str, bool])() if device.type == "cpu" else {}
    units = [known[name] for name in ("avx512_bf16", "amx_bf16") if name in known]
    return any(units) or not units
