"""A second opinion on an exported file: its episodes in an environment of gymnasium, not in ours."""

from collections import Counter
from collections.abc import Iterator, Mapping

import gymnasium as gym
import numpy as np

from robokit import seeds
from robokit.console import say
from robokit.controller import Controller
from robokit.env.env import Env
from robokit.errors import OptionError
from robokit.evaluation.episodes import GAMMA
from robokit.evaluation.reports.report import Failure, Headline, Report
from robokit.evaluation.statistics import share, summarize
from robokit.export.card import variant
from robokit.export.file import Exported
from robokit.interop.peers.peer import Peer, layout, name_of, peer_of, reward_keys
from robokit.task.task import RETURN, TERMINATED, Task


def evaluate_in_gymnasium(
    file: Exported, task: Task, id: str, episodes: int = 300, *, seed: int = 0, own: bool | None = None
) -> Report:
    """Run the Controller of a file in episodes of an environment of gymnasium; a report as `evaluate`'s.

    task: one that the file fits: its `observe` names the environment's numbers. own: see `card.variant`.
    Return, length, ends and the reward's terms are gymnasium's, which has no costs, limits or metrics of
    ours. An episode lasts at most the task's time limit.

    Raises TaskError for a file that does not fit the task, ObservationError for numbers that are not finite,
    OptionError for episodes < 2, a seed below 0, an unknown id, spaces that do not match (`layout`), or
    inputs of the file that the environment does not give.
    """
    drawing = seeds.seed("evaluation", seed)
    if episodes < 2:
        raise OptionError(f"episodes must be at least 2, got {episodes}")
    env, peer = Env(task, 1, nominal=True, threads=1), peer_of(id)
    variant(file.contract, env, own)
    widths, driver = layout(env, peer), Controller(file)
    if missing := [name for name in driver.inputs if name not in widths]:
        raise OptionError(f"{name_of(peer)} gives {[*widths]}, and the file {file.path} takes {missing} too")
    stops = np.cumsum([*widths.values()]).tolist()
    columns = {name: slice(stop - widths[name], stop) for name, stop in zip(widths, stops, strict=True)}
    say(f"measuring {episodes} episodes of {file.path} in gymnasium's {name_of(peer)}")
    peer.reset(seed=drawing)
    ran = [_episode(driver, peer, columns, env.max_age) for _ in range(episodes)]
    peer.close()
    returns, lengths, ended = np.array([one[:3] for one in ran], np.float64).T
    names = sorted({name for *_, sums in ran for name in sums})
    failure = [TERMINATED] if TERMINATED in task.failure else []
    lists = {"return": returns, "length": lengths, "failed": ended * len(failure)}
    return Report(
        task=file.contract["task"],
        file=str(file.path),
        sha256=file.sha256,
        episodes=episodes,
        seed=seed,
        nominal=True,
        headline=Headline(RETURN, "sum", summarize(returns)),
        failure=Failure(failure, share(lists["failed"] == 1)),
        returns=summarize(returns),
        length=summarize(lengths),
        terms={name: summarize(np.array([sums[name] for *_, sums in ran], np.float64)) for name in names},
        terminated=int(ended.sum()),
        gamma=GAMMA,
        notes=[*_notes(env, peer)],
        per_episode={name: numbers.tolist() for name, numbers in lists.items()},
        variant=f"{name_of(peer)} of gymnasium {gym.__version__}, exported for {file.contract['task']}",
    )


def _episode(
    driver: Controller, peer: Peer, columns: Mapping[str, slice], longest: int
) -> tuple[float, int, bool, Counter[str]]:
    """(return, control steps, terminated, sums of the reward's terms) of a new episode."""
    obs, _ = peer.reset()
    driver.reset()
    total, length, sums, ended, over = 0.0, 0, Counter[str](), False, False
    while not (ended or over) and length < longest:
        ctrl = driver.step({name: obs[columns[name]] for name in driver.inputs})
        obs, reward, ended, over, info = peer.step(ctrl)
        total, length = total + float(reward), length + 1
        sums.update({key.removeprefix("reward_"): float(info[key]) for key in reward_keys(info)})
    return total, length, ended, sums


def _notes(env: Env, peer: Peer) -> Iterator[str]:
    """What of the task is not measured there, or otherwise."""
    task, limit = env.task, (peer.spec and peer.spec.max_episode_steps) or env.max_age
    if unseen := sorted({*task.limits, task.headline, *task.failure} - {RETURN, TERMINATED}):
        yield f"not measured, for gymnasium does not give it: {', '.join(unseen)}"
    if limit < env.max_age:
        yield f"episodes last at most {limit} control steps there, and {env.max_age} in the task"
