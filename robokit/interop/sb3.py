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
from gymnasium.spaces import Dict
from stable_baselines3 import __version__
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env.base_vec_env import VecEnv
from torch import Tensor, nn

from robokit.errors import DataError, OptionError
from robokit.export.write import Written
from robokit.interop.adapted import Adapted, Model, gate_env, write
from robokit.interop.closed import WRONG, Normalize, read_normalize
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

    Raises DataError for spaces or a class without one, and for a policy that acts otherwise than they do.
    """
    space, takes = policy.action_space, _takes(policy)
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
        raise DataError(f"{type(policy).__name__} has no actor that is known here")
    if "" not in takes:
        features = Keyed(features, takes)
    parts = features, head, (space.low, space.high), squashed, getattr(policy, "lstm_actor", None)
    obs = np.random.default_rng(0).standard_normal((16, sum(takes.values())), np.float32)
    theirs: Any = obs if "" in takes else split(obs, takes)
    expected, plain = policy.predict(theirs, deterministic=True)[0], Adapted(*parts).eval()
    with torch.no_grad():
        action = plain(torch.from_numpy(obs), torch.zeros(16, plain.belief_size), torch.ones(16) > 0)[0]
    if not torch.allclose(
        torch.lerp(plain.low, plain.high, (action + 1) / 2), torch.tensor(expected), atol=1e-5
    ):
        raise DataError(f"{type(policy).__name__} does not act as its own networks do: it cannot be exported")
    return Adapted(*parts, None if normalize is None else normalize.row(takes)).eval()


class Keyed(nn.Module):
    """The features of a dictionary of observations, of its rows side by side."""

    def __init__(self, inner: nn.Module, takes: dict[str, int]) -> None:
        super().__init__()
        self.inner, self.takes = inner, takes

    def forward(self, obs: Tensor) -> Tensor:
        return self.inner(split(obs, self.takes))


def split(obs: Any, takes: dict[str, int]) -> dict[str, Any]:
    """{key: (n, width)} of rows (n, D), numpy or torch."""
    ends = np.cumsum([0, *takes.values()]).tolist()
    return {key: obs[:, a:b] for key, a, b in zip(takes, ends[:-1], ends[1:], strict=True)}


def _takes(policy: Any) -> dict[str, int]:
    """Widths of a policy's observations by key. Raises DataError for spaces that are no rows of numbers."""
    seen, acted = policy.observation_space, policy.action_space
    parts: dict[str, Any] = dict(seen.spaces) if isinstance(seen, Dict) else {"": seen}
    if any(len(part.shape or ()) != 1 or not hasattr(part, "low") for part in (*parts.values(), acted)):
        rule = "an exported policy takes rows of numbers and gives one"
        raise DataError(f"{rule}; this takes {seen} and gives {acted}")
    return {key: int(part.shape[0]) for key, part in parts.items()}


def export_model(model: Any, task: str | Path | Task, path: str | Path, normalize: Any = None) -> Written:
    """Export a model of SB3 or sb3-contrib for a task, through the same gate as every policy.

    normalize: its VecNormalize or the file of one; None: the model's own, if any. Raises DataError for what
    cannot be exported for this task, ExportError if the gate refuses it.
    """
    saved = model.get_vec_normalize_env() if normalize is None else normalize
    if isinstance(saved, str | Path):
        known = read_normalize(saved)
    else:
        known = None if saved is None else Normalize.of(saved, type(saved).__name__)
    return write(_model(model.policy, known), gate_env(load_task(task)), path)


def _model(policy: Any, normalize: Normalize | None) -> Model:
    origin = {"version": __version__, "policy": type(policy).__module__, "normalized": normalize is not None}
    return Model(adapted(policy, normalize), _takes(policy), origin)


def read_trusted(path: str | Path, normalize: Normalize | None = None) -> Model:
    """A model.zip loaded by SB3: its pickles run. Raises DataError for what is not known or lacks here."""
    try:
        loaded: Any = load_from_zip_file(path, device="cpu")
        data, parts, _ = loaded  # of a file without one, data is None: a TypeError below
        kind, takes = data["policy_class"], inspect.signature(data["policy_class"]).parameters
        given = {"use_sde": data.get("use_sde", False), "lr_schedule": lambda _: 0.0, **data["policy_kwargs"]}
        every = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values())
        options = {name: value for name, value in given.items() if every or name in takes}
        policy = kind(data["observation_space"], data["action_space"], **options)
        policy.load_state_dict(parts["policy"])
    except (*WRONG, RuntimeError) as error:
        short = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise DataError(f"{path} cannot be loaded with Stable-Baselines3: {short}") from error
    return _model(policy, normalize)
