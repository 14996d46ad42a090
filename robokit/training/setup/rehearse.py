"""Rehearsal of the export: what its gate would refuse after hours of training, it refuses before a step."""

import copy
import os
import shutil
import tempfile
from pathlib import Path

import torch

from robokit.console import say
from robokit.env.env import Env
from robokit.errors import ParityError
from robokit.export.gate import check_spans, record
from robokit.export.write import export
from robokit.learning.protocols import Exploring
from robokit.networks.policy import Policy

EDGE = 10.0  # times the tolerance: below it a difference is noted, as the trained policy may pass
MEMORY, ROOM = "/dev/shm", 1 << 26  # bytes
STEPS = 200  # control periods of the replays: at least two resets in each


def rehearse(policy: Policy, env: Env) -> None:
    """Export a copy of an untrained policy into a temporary folder. env: see restore.export_env.

    The copy's normaliser has seen STEPS observations of an exploring policy, as after the first iterations.
    Raises ExportError where the gate refuses it, but for rounding near its tolerance, which is noted.
    """
    check_spans(env)
    policy = copy.deepcopy(policy).cpu().eval()
    recording = record(Exploring(policy), env, STEPS)
    seen = recording.obs.flatten(0, 1)
    policy.normalizer.update(seen, torch.ones(len(seen), dtype=torch.bool))
    with tempfile.TemporaryDirectory(dir=_memory()) as folder:
        try:
            export(policy, env, Path(folder) / "policy.onnx", recording=recording)
        except ParityError as near:
            if not near.excess <= EDGE:
                raise
            say(f"note: an export may be refused, as that of the untrained policy is: {near}")


def _memory() -> str | None:
    """A folder in memory, where a full disk refuses no training; None: there is none, or it is small."""
    if not os.access(MEMORY, os.W_OK | os.X_OK):
        return None
    return MEMORY if shutil.disk_usage(MEMORY).free >= ROOM else None
