r"""How often a walking quadruped falls where its commands arrive late: one row for each file and delay.

    python benchmarks/delay.py                  # the shipped files of go2_walk; about 2 minutes
    python benchmarks/delay.py --delays 0.02 0.05 policies/go2_walk.onnx

Prints the share of 300 episodes of 6 s that end in a fall, at a fixed `action_delay` in the task that the
file was trained on, with its noise, randomisation and pushes; in brackets the 95 % interval.
"""

import argparse
from pathlib import Path

from robokit.env.env import Env
from robokit.evaluation.episodes import onnx_actor, run_episodes
from robokit.evaluation.statistics import share
from robokit.export.file import Exported
from robokit.seeds import seed
from robokit.task.lookup.find import load_task

EPISODES, SECONDS = 300, 6.0
FILES = ("policies/go2_walk.onnx", "policies/go2_walk-Go2WalkSensed.onnx")


def row(path: str, delay: float) -> str:
    file = Exported.open(path)
    task = load_task(Path(path).stem.replace("-", ":"))
    late = type("Late", (type(task),), {"action_delay": delay, "time_limit": SECONDS})()
    falls = share(run_episodes(Env(late, EPISODES, seed=seed("evaluation")), onnx_actor(file)).failed)
    shown = f"{falls.count} of {EPISODES}, {falls.value:.1%} [{falls.low:.1%}, {falls.high:.1%}]"
    return f"{path} {1000 * delay:g} ms: {shown}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="*", default=FILES)
    parser.add_argument("--delays", nargs="+", type=float, default=(0.0, 0.02, 0.03, 0.04, 0.06))
    arguments = parser.parse_args()
    for path in arguments.files:
        for delay in arguments.delays:
            print(row(path, delay), flush=True)
