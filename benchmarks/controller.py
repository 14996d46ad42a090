"""Controller.step beside the bare onnxruntime run of the same file, interleaved; and a loop with deadlines.

    python benchmarks/controller.py policies/hopper.onnx           # a file, or several; the step's price
    python benchmarks/controller.py policies/hopper.onnx --minutes 10 --hz 50

Without a file it exports untrained policies of two shapes. Leave the machine alone while it runs: a missed
deadline may as well be another program's.
"""

import argparse
import gc
import platform
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np

from robokit.controller import OUTPUTS, Controller, carry_size, load, ort

WARM_UP = 500


def untrained(folder: Path) -> list[Path]:
    """A memoryless hopper of 64 x 64, and one with a stack of 5 frames."""
    import torch

    import robokit
    from robokit.export.write import export
    from robokit.networks.belief import make_belief
    from robokit.networks.policy import Gaussian

    torch.manual_seed(0)
    env = robokit.make("hopper", num_envs=8, threads=1)
    paths = {"memoryless": folder / "memoryless.onnx", "stack": folder / "stack.onnx"}
    for kind, path in paths.items():
        belief = make_belief(kind, env.names.obs, 5)
        export(Gaussian(env.obs_dim, env.act_dim, belief), env, path)
    return list(paths.values())


Floats = dict[str, np.ndarray]


def inputs(path: Path) -> tuple[ort.InferenceSession, Floats, Floats]:
    """A bare session of a file, what a robot reads (float64, as drivers give it), and the session's feed."""
    _, session, contract, _ = load(path)
    rng = np.random.default_rng(0)
    obs = {i["name"]: rng.normal(0, 0.1, i["size"]) for i in contract["inputs"]}
    feed = {name: value[None].astype(np.float32) for name, value in obs.items()}
    feed |= {"carry": np.zeros((1, carry_size(contract)), np.float32), "reset": np.zeros(1, np.bool_)}
    return session, obs, feed


def price(path: Path, rounds: int) -> str:
    """Microseconds of a bare run and of a whole step, one after the other in every round."""
    controller, (session, obs, feed) = Controller(path), inputs(path)
    bare, whole = np.zeros(rounds), np.zeros(rounds)
    for k in range(-WARM_UP, rounds):
        start = time.perf_counter()
        session.run(OUTPUTS, feed)
        middle = time.perf_counter()
        controller.step(obs)
        if k >= 0:
            bare[k], whole[k] = middle - start, time.perf_counter() - middle
    (b50, b99), (w50, w99) = (np.percentile(t, (50, 99)) * 1e6 for t in (bare, whole))
    return (
        f"{path.name}: bare run p50 {b50:.1f} us p99 {b99:.1f} us, Controller.step p50 {w50:.1f} us "
        f"p99 {w99:.1f} us, ratio {w50 / b50:.2f} ({rounds} rounds)"
    )


def deadlines(path: Path, minutes: float, hz: float) -> str:
    """A control loop that sleeps until each tick; ctrl after the next tick is a missed deadline.

    Half a period later the bare session runs, woken alike. A miss is the machine's own where the loop was
    woken too late to begin with.
    """
    controller, (session, obs, feed), period = Controller(path), inputs(path), 1 / hz
    ticks = round(minutes * 60 * hz)
    woken, done, bare = np.zeros((3, ticks))
    gc.disable()  # as the deploy page advises for the loop of a robot
    start = time.perf_counter() + period
    for k in range(ticks):
        tick = start + k * period
        woken[k] = wake(tick)
        controller.step(obs)
        done[k] = time.perf_counter() - tick
        late = wake(tick + period / 2)
        session.run(OUTPUTS, feed)
        bare[k] = time.perf_counter() - tick - period / 2 - late
    gc.enable()
    missed, machine = int((done > period).sum()), int((woken > period).sum())
    steps = f"step p50 {np.median(done - woken) * 1e6:.0f} us, longest {(done - woken).max() * 1e3:.2f} ms"
    steps += f"; bare run p50 {np.median(bare) * 1e6:.0f} us, longest {bare.max() * 1e3:.2f} ms"
    return (
        f"{path.name}: {ticks} periods at {hz:g} Hz, {missed} missed deadlines, {machine} of them "
        f"woken too late; {steps}"
    )


def wake(tick: float) -> float:
    """Sleep until `tick`; how late it became, s."""
    time.sleep(max(0.0, tick - time.perf_counter()))
    return time.perf_counter() - tick


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, help="exported policies")
    parser.add_argument("--rounds", type=int, default=20_000, help="of a bare run and a step each")
    parser.add_argument("--minutes", type=float, help="run the control loop for so long instead")
    parser.add_argument("--hz", type=float, default=50.0, help="rate of that loop")
    arguments = parser.parse_args()
    print(f"{date.today()} {platform.processor() or platform.machine()}, onnxruntime {ort.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        for path in arguments.files or untrained(Path(folder)):
            loop = arguments.minutes is not None
            line = deadlines(path, arguments.minutes, arguments.hz) if loop else price(path, arguments.rounds)
            print(line, flush=True)


if __name__ == "__main__":
    main()
