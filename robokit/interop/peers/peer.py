"""An environment of gymnasium beside a task: found by its id, and fit if spaces and control period are."""

import re
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Space

from robokit.env.env import Env
from robokit.errors import OptionError
from robokit.task.columns import columns_of
from robokit.task.lookup.find import title

Peer = gym.Env[Any, Any]


def name_of(peer: Peer) -> str:
    return peer.spec.id if peer.spec else type(peer.unwrapped).__name__


def peer_of(what: str | Peer) -> Peer:
    """`gymnasium.make` of an id; an environment itself. Raises OptionError for an id that gives none."""
    if not isinstance(what, str):
        return what
    try:
        return gym.make(what)
    except (gym.error.Error, ImportError) as error:
        raise OptionError(f"gymnasium has no {what!r} here: {error}") from error


def reward_keys(info: Mapping[str, Any]) -> list[str]:
    """The keys of an info that are terms of the reward, by their names."""
    return [key for key, value in info.items() if re.search("reward|penalty", key) and np.ndim(value) == 0]


def layout(env: Env, peer: Peer) -> dict[str, int]:
    """Term -> width of a peer's observation: all that the task observes, or all that its robot senses.

    The second leaves out commands and what the exported file carries. Raises OptionError, naming all that
    differ, unless the peer gives one row of so many numbers, takes ctrl between the actuators' bounds, and
    has the task's control period, if it tells one (`dt`).
    """
    truth, carried = env.names.truth, [term.name for term in env.carried]
    columns = columns_of(truth, env.task.commands, carried)
    sensed = {column.name: column.width for column in columns if column.kind == "sensed"}
    shape = peer.observation_space.shape if isinstance(peer.observation_space, Box) else None
    found = next((terms for terms in (truth, sensed) if shape == (sum(terms.values()),)), None)
    low, high = (x.cpu().numpy().astype(np.float32) for x in (env.map.low, env.map.high))
    box, period = peer.action_space, env.task.control_dt
    dt = getattr(peer.unwrapped, "dt", period)
    ours, theirs = title(env.task), name_of(peer)
    fits = isinstance(box, Box) and all(map(np.array_equal, (box.low, box.high), (low, high)))
    seen = f"{sum(truth.values())} numbers of {ours}, {truth}"
    facts = (
        (found is not None, f"observations: {seen}, and {_words(peer.observation_space)} of {theirs}"),
        (fits, f"actions: {_words(Box(low, high))} of {ours}, as ctrl, and {_words(box)} of {theirs}"),
        (
            np.isclose(dt, period, rtol=1e-6),
            f"control period: {period:g} s of {ours}, and {dt:g} s of {theirs}",
        ),
    )
    differ = [words for fine, words in facts if not fine]
    if found is None or differ:
        raise OptionError(f"{theirs} does not fit {ours}; {'; '.join(differ)}")
    return found


def _words(space: Space[Any]) -> str:
    """A row of numbers with its bounds, if they are finite; another space by its kind."""
    if not isinstance(space, Box) or len(space.shape) != 1:
        return str(space)
    low, high = ([float(f"{x:.6g}") for x in bound] for bound in (space.low, space.high))
    within = f" in {low} to {high}" if np.isfinite([low, high]).all() else ""
    return f"{len(low)} numbers{within}"
