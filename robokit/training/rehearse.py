"""Rehearsal of the export: what its gate would refuse after hours of training, it refuses before a step."""

import copy
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from robokit.env.env import Env
from robokit.export.gate import check_spans, record
from robokit.export.write import export
from robokit.networks.policy import Policy

STEPS = 200  # control periods of the replays: at least two resets in each


class Exploring:
    """A policy that samples its actions: observations are then like those of a training."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.act_dim, self.belief_size = policy, policy.act_dim, policy.belief_size
        self.rng = torch.Generator().manual_seed(0)

    def __call__(self, obs: Tensor, belief: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randn(len(obs), self.act_dim, generator=self.rng)
        action, belief = self.sample(obs, belief, is_first, noise)
        return action.clamp(-1.0, 1.0), belief

    def sample(self, obs: Tensor, belief: Tensor, is_first: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return self.policy.sample(obs, belief, is_first, noise)


def rehearse(policy: Policy, env: Env) -> None:
    """Export a copy of an untrained policy into a temporary folder. env: see restore.export_env.

    The copy's normaliser has seen STEPS observations of an exploring policy, as after the first iterations.
    Raises ExportError where the gate refuses it.
    """
    check_spans(env)
    policy = copy.deepcopy(policy).cpu().eval()
    recording = record(Exploring(policy), env, STEPS)
    seen = recording.obs.flatten(0, 1)
    policy.normalizer.update(seen, torch.ones(len(seen), dtype=torch.bool))
    with tempfile.TemporaryDirectory() as folder:
        export(policy, env, Path(folder) / "policy.onnx", recording=recording)
