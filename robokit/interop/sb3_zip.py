"""A `model.zip` of Stable-Baselines3, read closed and without SB3, and its export.

The weights are read by torch's restricted loader, which knows tensors alone; kind, activation and options of
the policy are text in the zip's JSON; only the box of actions and the last observations are pickles, read by
`closed.unpickle`. What is not a standard policy of rows of numbers cannot be read so.
"""

import base64
import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robokit.console import say
from robokit.disk.read import parse_json, read_bytes
from robokit.env.env import Env
from robokit.errors import DataError, reason
from robokit.export.gate import record
from robokit.export.write import Written
from robokit.interop.adapted import Adapted, Model, fitted, gate_env, write
from robokit.interop.closed import WRONG, Normalize, read_normalize, unpickle
from robokit.learning.protocols import Exploring
from robokit.task.task import Task

MOST = 256 << 20  # bytes of a part of the zip
DAMAGED = (*WRONG, RuntimeError, zipfile.BadZipFile, zlib.error)
PERIODS = 200
TORCH = "torch.nn.modules.activation."
ACTIVATIONS = (nn.Tanh, nn.ReLU, nn.ELU, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.Mish, nn.Softplus, nn.Sigmoid)
BY_NAME = {kind.__name__: kind for kind in ACTIVATIONS}


ARS = "sb3_contrib.ars.policies"
POLICY, MEAN = ("mlp_extractor.policy_net", "action_net"), ("actor.latent_pi", "actor.mu")
KINDS = {  # module of a policy class -> prefix of its hidden layers, its last layer, activation, squashed
    "stable_baselines3.common.policies": (*POLICY, "Tanh", False),
    "sb3_contrib.common.recurrent.policies": (*POLICY, "Tanh", False),
    "stable_baselines3.sac.policies": (*MEAN, "ReLU", True),
    "sb3_contrib.tqc.policies": (*MEAN, "ReLU", True),
    "sb3_contrib.crossq.policies": (*MEAN, "ReLU", True),
    "stable_baselines3.td3.policies": ("actor.mu", "", "ReLU", True),
    ARS: ("action_net", "", "ReLU", True),
}
LINEAR = "ARSLinearPolicy"  # of ars.policies: its default is not squashed
HARMLESS = re.compile(  # options that do not change what the actor computes from its weights
    r":type:|:serialized:|net_arch|activation_fn|use_sde|sde_net_arch|full_std|use_expln|n_critics|n_quantiles"
    r"|ortho_init|log_std_init|squash_output|clip_mean|(enable_critic|shared)_lstm|lstm_hidden_size|n_lstm_layers"
    r"|share_features_extractor|normalize_images|optimizer_(class|kwargs)|with_bias|batch_norm\w*"
    r"|renorm_warmup_steps"
)


class NotClosed(DataError):
    """A whole model that only its own code can read."""


def read_zip(path: str | Path, normalize: Normalize | None = None) -> Model:
    """Read a model closed. Raises DataError for no or a damaged model, NotClosed for one of own code."""
    try:
        content, told, stored, version = _opened(path)
        loaded = torch.load(stored, weights_only=True, map_location="cpu")  # noqa: TID251
        weights = {str(name): tensor.detach().float() for name, tensor in loaded.items()}
        takes, box = _spaces(told, str(path))
        _check_known(told, str(path))
        policy = _policy(weights, told, box, None if normalize is None else normalize.row(takes)).eval()
        obs, none = torch.zeros(1, sum(takes.values())), torch.zeros(1, policy.belief_size)
        if policy(obs, none, torch.ones(1) > 0)[0].shape[-1] != policy.act_dim:
            raise ValueError(f"its layers do not end in its box of {policy.act_dim} actions")
        last = _last(told, takes, str(path))
    except DataError:
        raise
    except DAMAGED as error:
        short = str(error).strip().partition("\n")[0]
        raise DataError(f"{path} is no whole model of Stable-Baselines3: {short or repr(error)}") from error
    origin = {"version": version, "policy": told["policy_class"]["__module__"]}
    origin |= {"normalized": normalize is not None, "sha256": hashlib.sha256(content).hexdigest()}
    return Model(policy, takes, origin, last)


def export_zip(
    path: str | Path, task: Task, output: str | Path, normalize: str | Path | None = None, trust: bool = False
) -> Written:
    """Export a model for a task; read closed.

    normalize: the file of its VecNormalize; "none": it had none; None: refused where its last observations
    say that it had one, and for ARS, whose zip does not tell. trust: what cannot be read closed is loaded
    with SB3, and runs what it holds. Raises DataError for what cannot be read or is of another task,
    ExportError if the gate refuses it.
    """
    known = None if normalize in (None, "none") else read_normalize(normalize)
    try:
        model = read_zip(path, known)
    except NotClosed as refused:
        if not trust:
            way = "--trust loads it with Stable-Baselines3, with all your rights"
            raise NotClosed(f"{refused}: {way}") from None
        from robokit.interop.sb3 import read_trusted

        say(f"trusted: {path} is loaded with the code that it names")
        model = read_trusted(path, known)
    env = gate_env(task)
    policy = fitted(model, env)
    if normalize is None and model.origin["policy"] == ARS:  # whose last observation is its training's first
        rule = f"{path}: a model of ARS does not tell whether it had a VecNormalize"
        raise DataError(f"{rule}: give its file with --normalize, or --normalize none if it had none")
    if normalize is None and model.last is not None:
        _check_plain(model.last, policy, env, str(path))
    say(f"exporting the policy of {path} to {output}")
    return write(model, env, output)


def _opened(path: str | Path) -> tuple[bytes, Any, io.BytesIO, str]:
    """The zip; its JSON, its weights and its version."""
    try:
        content = read_bytes(path)
        with zipfile.ZipFile(io.BytesIO(content)) as parts:
            told = parse_json(_part(parts, "data"), "its data")
            stored = io.BytesIO(_part(parts, "policy.pth"))
            version = _part(parts, "_stable_baselines3_version").decode(errors="replace")[:40].strip()
    except (OSError, DataError) as error:
        raise DataError(f"cannot read {path}: {reason(error, path)}") from error
    return content, told, stored, version


def _part(parts: zipfile.ZipFile, name: str) -> bytes:
    with parts.open(name) as file:
        if len(content := file.read(MOST + 1)) > MOST:
            raise DataError(f"{name} has more than {MOST:,} bytes")
    return content


def _held(told: Mapping[str, Any], name: str) -> Any:
    return unpickle(base64.b64decode(told[":serialized:"]), name)


def _spaces(told: Mapping[str, Any], name: str) -> tuple[dict[str, int], tuple[Any, Any]]:
    """(Widths of observations by key, the box of actions). Raises DataError for spaces that are no rows."""
    keys = "observation_space", "action_space"
    kinds = [str(told[key][":type:"]).removesuffix("'>").rpartition(".")[2] for key in keys]
    seen, acted = (_held(told[key], name) for key in keys)
    parts = dict(seen.spaces) if kinds[0] == "Dict" else {"": seen}
    shapes: dict[str, Any] = {
        str(key): tuple(getattr(space, "_shape", None) or ()) for key, space in parts.items()
    }
    rows = all(hasattr(part, "low") for part in parts.values()) and {len(x) for x in shapes.values()} == {1}
    if not rows or kinds[0] not in ("Box", "Dict") or kinds[1] != "Box" or len(acted.low.shape) != 1:
        given = (
            f"{kinds[0]}{shapes.get('', shapes)} and gives {kinds[1]}{getattr(acted, '_shape', None) or ()}"
        )
        raise DataError(f"{name}: an exported policy takes rows of numbers and gives one; this takes {given}")
    return {key: int(shape[0]) for key, shape in shapes.items()}, (acted.low, acted.high)


def _check_known(told: Mapping[str, Any], name: str) -> None:
    """Raise NotClosed unless the policy is of a known class and its options are data."""
    module, options = str(told["policy_class"]["__module__"]), told["policy_kwargs"]
    if module not in KINDS:
        raise NotClosed(f"{name}: its policy class is of {module!r}, whose code would have to run")
    if odd := sorted(option for option in options if not HARMLESS.fullmatch(option)):
        raise NotClosed(f"{name}: its policy has the option {odd[0]!r}, whose code would have to run")
    if _activation(told) not in BY_NAME:
        raise NotClosed(f"{name}: its activation {options['activation_fn']!r} is not known here")


def _activation(told: Mapping[str, Any]) -> str:
    default = f"<class '{TORCH}{KINDS[told['policy_class']['__module__']][2]}'>"
    named = str(told["policy_kwargs"].get("activation_fn", default))
    return named.removeprefix(f"<class '{TORCH}").removesuffix("'>")


def _policy(
    weights: Mapping[str, Tensor], told: Mapping[str, Any], box: tuple[Any, Any], normal: np.ndarray | None
) -> Adapted:
    """The actor, built from the shapes of its weights. Raises KeyError or RuntimeError for missing ones."""
    (hidden, last, _, squashed), options = KINDS[told["policy_class"]["__module__"]], told["policy_kwargs"]
    squashed = squashed and LINEAR not in str(told["policy_class"].get("__init__"))
    squashed = bool(options.get("squash_output", squashed))
    bounded = f"{last}.0.weight" in weights  # the mean of gSDE
    most = float(options.get("clip_mean", 2.0))
    names = [*_within(weights, hidden), *([f"{last}.0" if bounded else last] if last else [])]
    between, head = BY_NAME[_activation(told)], list[nn.Module]()
    for name in names:
        layer = _layer(weights, name, options)
        head += [layer, between()] if isinstance(layer, nn.Linear) and name != names[-1] else [layer]
    head += [nn.Hardtanh(-most, most)] * bounded + [nn.Tanh()] * squashed
    return Adapted(nn.Identity(), nn.Sequential(*head), box, squashed, _lstm(weights), normal)


def _within(weights: Mapping[str, Tensor], prefix: str) -> list[str]:
    """`prefix.0`, `prefix.2`, ...: the layers of a Sequential that have weights, in their order."""
    found = (re.fullmatch(rf"{re.escape(prefix)}\.(\d+)\.\w+", name) for name in weights)
    return [f"{prefix}.{i}" for i in sorted({int(match[1]) for match in found if match})]


def _layer(weights: Mapping[str, Tensor], name: str, options: Mapping[str, Any]) -> nn.Module:
    own = {key.rpartition(".")[2]: w for key, w in weights.items() if key.rpartition(".")[0] == name}
    if "ra_mean" not in own:
        layer: nn.Module = nn.Linear(*reversed(own["weight"].shape), bias="bias" in own)
        layer.load_state_dict(own)
        return layer
    norm = nn.BatchNorm1d(len(own["ra_mean"]), eps=float(options.get("batch_norm_eps", 1e-3)))
    names = {"weight": "scale", "bias": "bias", "running_mean": "ra_mean", "running_var": "ra_var"}
    norm.load_state_dict({ours: own[theirs] for ours, theirs in names.items()}, strict=False)
    return norm


def _lstm(weights: Mapping[str, Tensor]) -> nn.LSTM | None:
    own = {n.removeprefix("lstm_actor."): w for n, w in weights.items() if n.startswith("lstm_actor.")}
    if not own:
        return None
    wide, narrow = own["weight_ih_l0"].shape
    lstm = nn.LSTM(narrow, wide // 4, sum(name.startswith("weight_ih") for name in own))
    lstm.load_state_dict(own)
    return lstm


def _last(told: Mapping[str, Any], takes: Mapping[str, int], name: str) -> Tensor | None:
    about = told.get("_last_obs")
    if not isinstance(about, dict) or ":serialized:" not in about:
        return None
    value = _held(about, name)
    rows: list[Any] = [value.get(key) for key in takes] if isinstance(value, dict) else [value]
    shapes: list[Any] = [getattr(row, "shape", ()) for row in rows]
    if shapes != [(*shapes[0][:1], width) for width in takes.values()]:
        return None
    return torch.tensor(np.concatenate(rows, -1), dtype=torch.float32)


def _check_plain(last: Tensor, policy: Adapted, env: Env, name: str) -> None:
    """Raise DataError if a training's last observations are not the task's, but normalized.

    That is: likelier as draws around 0 of deviation 1 than as those that the task shows in PERIODS control
    periods of this policy, without and with noise; both taken for Cauchy distributions.
    """
    if (gain := _likelier(last, policy, env)) > 0:
        rule = f"{name}: the last observations of its training are those of a VecNormalize ({gain:.2f} nats)"
        raise DataError(f"{rule}: give its file with --normalize, or --normalize none if it had none")


def _likelier(last: Tensor, policy: Adapted, env: Env) -> float:
    """By how much `last` (n, O) is likelier as normalized, in nats a number."""
    shown = [record(actor, env, PERIODS).obs.flatten(0, 1) for actor in (policy, Exploring(policy))]
    seen = torch.cat(shown)
    std, mean = torch.std_mean(seen if policy.columns is None else seen[:, policy.columns], 0)
    moving = std > 0
    z = (last - mean)[:, moving] / std[moving]
    return float((std[moving].log() + z.square().log1p() - last[:, moving].square().log1p()).mean())
