"""Models of Stable-Baselines3 and sb3-contrib for tests: made, trained a little, saved and changed."""

import copy
import importlib
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cart import Cart
from point import Point
from stable_baselines3 import PPO, HerReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from robokit.controller import Controller
from robokit.interop.gymnasium import TaskEnv
from robokit.interop.sb3 import TaskVecEnv


def small() -> dict[str, Any]:
    return {"policy_kwargs": {"net_arch": [16, 16]}}  # SB3 writes into it


@dataclass(frozen=True)
class Kind:
    """A model of SB3 or sb3-contrib."""

    name: str
    policy: str = "MlpPolicy"
    options: dict[str, Any] = field(default_factory=dict)
    task: Any = "hopper"
    form: Any = "flat"
    keys: list[str] | None = None  # of the observations that are normalized, if any are

    def make(self, env: Any) -> Any:
        home = importlib.import_module("stable_baselines3")
        if not hasattr(home, self.name):
            home = pytest.importorskip("sb3_contrib", reason="needs robokit[sb3]")
        return getattr(home, self.name)(self.policy, env, seed=0, **copy.deepcopy(self.options))


SOON = {"learning_starts": 200, "train_freq": 10}  # off-policy
ROLL = {"n_steps": 16}
HER = {
    **SOON,
    "replay_buffer_class": HerReplayBuffer,
    "replay_buffer_kwargs": {"copy_info_dict": True},
    "policy_kwargs": {"net_arch": [32, 32]},
}
GOAL: dict[str, Any] = {"policy": "MultiInputPolicy", "task": Point(), "form": "goal"}
KINDS = {
    "ppo": Kind("PPO", options=ROLL),
    "ppo-gsde-squashed": Kind(
        "PPO", options={**ROLL, "use_sde": True, "policy_kwargs": {"squash_output": True}}
    ),
    "ppo-elu": Kind("PPO", options={**ROLL, "policy_kwargs": {"activation_fn": nn.ELU, "net_arch": [8]}}),
    "a2c": Kind("A2C"),
    "sac": Kind("SAC", options=SOON),
    "sac-gsde": Kind("SAC", options={**SOON, "use_sde": True}),
    "td3": Kind("TD3", options=SOON),
    "ddpg": Kind("DDPG", options=SOON),
    "trpo": Kind("TRPO", options=ROLL),
    "tqc": Kind("TQC", options=SOON),
    "crossq": Kind("CrossQ", options=SOON),
    "recurrent-ppo": Kind("RecurrentPPO", "MlpLstmPolicy", ROLL),
    "ars": Kind("ARS", options={"n_delta": 2}),
    "ars-linear": Kind("ARS", "LinearPolicy", {"n_delta": 2}),
    "her-sac": Kind("SAC", options=HER, **GOAL),
    "her-td3": Kind("TD3", options=HER, **GOAL),
    "her-ddpg": Kind("DDPG", options=HER, **GOAL),
    "her-tqc": Kind("TQC", options=HER, **GOAL),
    "her-arm": Kind("SAC", options=HER, **{**GOAL, "task": "arm_reach:Clean"}),
    "ppo-goal": Kind("PPO", options=ROLL, **GOAL, keys=["achieved_goal", "observation"]),
    "ppo-dict": Kind("PPO", options=ROLL, policy="MultiInputPolicy", form="dict"),
    "recurrent-goal": Kind("RecurrentPPO", options=ROLL, **{**GOAL, "policy": "MultiInputLstmPolicy"}),
}


def trained(kind: Kind, normalized: bool, steps: int = 1000) -> Any:
    env: Any = TaskVecEnv(kind.task, 1 if kind.name == "ARS" else 4, kind.form, threads=1)
    model = kind.make(VecNormalize(env, norm_obs_keys=kind.keys) if normalized else env)
    model.learn(steps)
    return model


def saved(model: Any, folder: Path) -> tuple[Path, Path | None]:
    """model.zip, and vec.pkl if it has one."""
    model.save(folder / "model.zip")
    if (normalize := model.get_vec_normalize_env()) is None:
        return folder / "model.zip", None
    normalize.save(str(folder / "vec.pkl"))
    return folder / "model.zip", folder / "vec.pkl"


def difference(file: Path, model: Any, kind: Kind, steps: int = 200) -> tuple[float, int]:
    """Largest difference of the file's action from SB3's `predict` in closed loop, and the restarts in it."""
    env, controller = TaskEnv(kind.task, observations=kind.form, nominal=True), Controller(file)
    normalize = model.get_vec_normalize_env()
    (obs, _), state, first, worst, restarts = env.reset(seed=1), None, True, 0.0, 0
    controller.reset()
    for t in range(steps):
        seen = {key: x[None] for key, x in obs.items()} if isinstance(obs, dict) else obs[None]
        seen = normalize.normalize_obs(seen) if normalize else seen
        action, state = model.predict(seen, state, np.array([first]), deterministic=True)
        terms = env.inner.terms()
        ctrl = controller.step({name: terms[name][0].numpy() for name in controller.inputs})
        worst = max(worst, float(np.abs(env.inner.targets(torch.from_numpy(action))[0].numpy() - ctrl).max()))
        obs, _, terminated, truncated, _ = env.step(action[0])
        first = terminated or truncated or t % 80 == 79
        if first:
            obs, _ = env.reset()
            controller.reset()
            restarts += 1
    return worst, restarts


def plain_model(folder: Path) -> Path:
    """A model of Cart that has learned nothing yet, and saw it as it is."""
    model = PPO("MlpPolicy", TaskVecEnv(Cart(), 4, threads=1), n_steps=16, seed=0, **small())
    model.learn(64)
    return saved(model, folder)[0]


def changed(path: Path, folder: Path, told: Any = None, **parts: bytes) -> Path:
    """A copy of a model.zip with parts in place of its own; told: changes its JSON."""
    copy = folder / "changed.zip"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            content = parts.get(name.partition(".")[0], old.read(name))
            if name == "data" and told:
                data = json.loads(content)
                told(data)
                content = json.dumps(data).encode()
            new.writestr(name, content)
    return copy
