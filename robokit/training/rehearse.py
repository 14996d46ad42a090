"""Rehearsal of the export: before the first step, the untrained policy goes through export and gate.

What the gate would refuse after hours of training, it refuses now.
"""

import copy
import tempfile
from pathlib import Path

import torch

from robokit.env.env import Env
from robokit.export.gate import check_spans, record
from robokit.export.write import export
from robokit.networks.policy import Policy

STEPS = 200  # control periods of the replays: at least two resets in each


def rehearse(policy: Policy, env: Env) -> None:
    """Export a copy of an untrained policy into a temporary folder. env: see restore.export_env.

    The copy's normaliser has seen STEPS observations, as after the first iterations. Raises ExportError where
    the gate refuses it.
    """
    check_spans(env)
    policy = copy.deepcopy(policy).cpu().eval()
    recording = record(policy, env, STEPS)
    seen = recording.obs.flatten(0, 1)
    policy.normalizer.update(seen, torch.ones(len(seen), dtype=torch.bool))
    with tempfile.TemporaryDirectory() as folder:
        export(policy, env, Path(folder) / "policy.onnx", recording=recording)
