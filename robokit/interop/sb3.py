"""Stable-Baselines3 on a task's simulations in one batch, and its models as exported files.

model = PPO("MlpPolicy", TaskVecEnv("hopper", num_envs=64))
model.learn(300_000)
export_model(model, "hopper", "policies/hopper.onnx")
"""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import __version__
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env.base_vec_env import VecEnv
from torch import nn

from robokit.errors import ExportError, OptionError
from robokit.export.write import Written
from robokit.interop.adapted import Adapted, Model, gate_env, write
from robokit.interop.closed import Normalize, read_normalize
from robokit.interop.observed import Form, Obs, Observed, array, env_of, infos_of, row
from robokit.task.lookup.find import load_task
from robokit.task.task import Task


class TaskVecEnv(VecEnv):
    """N simulations of a task in one batch, without processes. Actions are robokit's, in [-1, 1].

    Infos name every reward term, cost and metric of the step that is counted; at an episode's end they have
    `terminal_observation`, `TimeLimit.truncated` and `episode`, so that no Monitor is needed. observations:
    "flat", "dict" or "goal", as `Observed`. options: of Env. Raises TaskError, OptionError.
    """

    def __init__(
        self,
        task: str | Path | type[Task] | Task,
        num_envs: int = 64,
        observations: Form = "flat",
        **options: Any,
    ) -> None:
        self.inner = env_of(TaskVecEnv, task, options, num_envs, autoreset=True)
        self._seen = Observed(self.inner, observations)
        self._returns, self._lengths = np.zeros(num_envs), np.zeros(num_envs, np.int64)
        self._action = torch.zeros(num_envs, self.inner.act_dim)
        super().__init__(num_envs, self._seen.space, self._seen.actions)

    def reset(self) -> Obs:
        if (seed := self._seeds[0]) is not None:
            self.inner.rng.manual_seed(seed)
        self.inner.reset()
        self._reset_seeds()
        self._reset_options()
        self._returns[:], self._lengths[:] = 0, 0
        return self._seen.now()

    def step_async(self, actions: np.ndarray) -> None:
        self._action = torch.as_tensor(actions, dtype=torch.float32)

    def step_wait(self) -> tuple[Obs, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        step = self.inner.step(self._action)
        reward, done, infos = (
            array(step.reward),
            array(step.done),
            list[dict[str, Any]](infos_of(self.inner, step)),
        )
        self._returns += reward
        self._lengths += 1
        if done.any():
            ended = self._seen.ended(step)
            for i in np.flatnonzero(done).tolist():
                infos[i] |= {
                    "terminal_observation": row(ended, i),
                    "TimeLimit.truncated": bool(step.truncated[i]),
                    "episode": {"r": float(self._returns[i]), "l": int(self._lengths[i]), "t": 0.0},
                }
            self._returns[done], self._lengths[done] = 0, 0
        return self._seen.now(), reward, done, infos

    def close(self) -> None: ...

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of Env, or `compute_reward`, once for each index. Raises AttributeError."""
        own: dict[str, Any] = {"render_mode": None}  # films are made of the exported file
        own |= {"compute_reward": self._seen.reward} if self._seen.form == "goal" else {}
        value = own[attr_name] if attr_name in own else getattr(self.inner, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise OptionError(f"a batch has no simulation of its own to set {attr_name!r} of")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """A method of Env, or `compute_reward` (Observed.reward), called once; its result for each index."""
        found = self.get_attr(method_name, indices)
        result = found[0](*args, **kwargs)
        return [result for _ in found]

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """True for a Monitor: episodes are counted here."""
        return [issubclass(Monitor, wrapper_class) for _ in self._get_indices(indices)]


def adapted(policy: Any, normalize: Normalize | None = None) -> Adapted:
    """The actor of an SB3 policy, of its own modules.

    Raises ExportError for spaces or a class without one, and for a policy that acts otherwise than they do.
    """
    spaces = policy.observation_space, policy.action_space
    if any(len(space.shape or ()) != 1 or not hasattr(space, "low") for space in spaces):
        rule = "an exported policy takes a row of numbers and gives one"
        raise ExportError(f"{rule}; this takes {spaces[0]} and gives {spaces[1]}")
    squashed, actor = bool(policy.squash_output), policy._modules.get("actor")
    ends = [nn.Tanh()] * squashed
    if hasattr(actor, "latent_pi"):  # SAC, TQC, CrossQ
        features, head = actor.features_extractor, nn.Sequential(actor.latent_pi, actor.mu, *ends)
    elif actor is not None:  # TD3, DDPG: the network ends in tanh
        features, head = actor.features_extractor, actor.mu
    elif hasattr(policy, "mlp_extractor"):  # PPO, A2C, TRPO, RecurrentPPO
        features = policy.pi_features_extractor
        head = nn.Sequential(policy.mlp_extractor.policy_net, policy.action_net, *ends)
    elif hasattr(policy, "action_net"):  # ARS: the network ends in tanh
        features, head = policy.features_extractor, policy.action_net
    else:
        raise ExportError(f"{type(policy).__name__} has no actor that is known here")
    parts = features, head, (spaces[1].low, spaces[1].high), squashed, getattr(policy, "lstm_actor", None)
    obs = np.random.default_rng(0).standard_normal((16, *spaces[0].shape), np.float32)
    expected, plain = policy.predict(obs, deterministic=True)[0], Adapted(*parts).eval()
    with torch.no_grad():
        action = plain(torch.from_numpy(obs), torch.zeros(16, plain.belief_size), torch.ones(16) > 0)[0]
    if not torch.allclose(
        torch.lerp(plain.low, plain.high, (action + 1) / 2), torch.tensor(expected), atol=1e-5
    ):
        raise ExportError(
            f"{type(policy).__name__} does not act as its own networks do: it cannot be exported"
        )
    return Adapted(*parts, normalize).eval()


def export_model(model: Any, task: str | Path | Task, path: str | Path, normalize: Any = None) -> Written:
    """Export a model of SB3 or sb3-contrib for a task, through the same gate as every policy.

    normalize: its VecNormalize or the file of one; None: the model's own, if any. Raises ExportError.
    """
    saved = model.get_vec_normalize_env() if normalize is None else normalize
    if isinstance(saved, str | Path):
        known = read_normalize(saved)
    else:
        known = None if saved is None else Normalize.of(saved, type(saved).__name__)
    return write(_model(model.policy, known), gate_env(load_task(task)), path)


def _model(policy: Any, normalize: Normalize | None) -> Model:
    origin = {"version": __version__, "policy": type(policy).__module__, "normalized": normalize is not None}
    return Model(adapted(policy, normalize), policy.observation_space.shape[0], origin)


def read_trusted(path: str | Path, normalize: Normalize | None = None) -> Model:
    """A model.zip loaded by SB3: its pickles run. Raises ExportError for a policy that is not known here."""
    data, parts, _ = load_from_zip_file(path, device="cpu")
    assert data is not None
    kind, takes = data["policy_class"], inspect.signature(data["policy_class"]).parameters
    given = {"use_sde": data.get("use_sde", False), "lr_schedule": lambda _: 0.0, **data["policy_kwargs"]}
    every = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values())
    options = {name: value for name, value in given.items() if every or name in takes}
    policy = kind(data["observation_space"], data["action_space"], **options)
    policy.load_state_dict(parts["policy"])
    return _model(policy, normalize)
