"""The replay buffer: the last control steps of N simulations, sampled as windows of consecutive steps.

    replay = Replay({"obs": 17, "action": 6, "reward": 1}, belief_size=0, num_envs=1, capacity=1_000_000)
    replay.add({"obs": obs, "action": action, "reward": reward}, belief)
    rows, belief = replay.sample(windows=256, length=1, rng=rng)

Steps are kept, saved and dropped in segments of S control steps. A whole segment never changes, so each is
written to disk once.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from robokit.compute.processes import here, world
from robokit.errors import OptionError

SEGMENTS = 64  # least number of segments of a full ring (64 to 127); fewer only if t < 64
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")  # cgroup: a container's limit


class Replay:
    """A ring buffer of the last control steps of N simulations, float32, on `device`, the learner's.

    capacity: transitions of this process. widths: {column: width}, which add up to C.

    For t = ceil(capacity / N) steps, S = max(1, t // 64) and T is t rounded up to a multiple of S. In a full
    ring the first step of a new segment drops the S oldest steps together: it keeps from T - S + 1 to T steps
    of each simulation, and exactly t if t < 128.

    It takes T * N * bytes_per_transition of memory: on CUDA at once, on the CPU as it fills.
    """

    rows: Tensor  # (T, N, C) columns side by side, in the order of `widths`
    beliefs: Tensor  # (T, N, B) before each step
    position: int  # control steps ever added
    digests: dict[int, str]  # sha256 of each saved segment's file; kept by disk/checkpoint.py

    def __init__(
        self,
        widths: Mapping[str, int],
        belief_size: int,
        num_envs: int,
        capacity: int,
        device: torch.device | str = "cpu",
    ) -> None:
        check_fits(widths, belief_size, num_envs, capacity, device)
        self.widths = dict(widths)
        self.steps, self.segment = _layout(num_envs, capacity)  # T, S
        size = self.steps, num_envs
        self.rows = torch.empty(*size, sum(widths.values()), device=device)
        self.beliefs = torch.empty(*size, belief_size, device=device)
        self.position = 0
        self.digests = {}

    @property
    def oldest(self) -> int:
        """Number of the oldest control step kept, as `position` counts; always the first of a segment."""
        return max(0, -(-self.position // self.segment) * self.segment - self.steps)

    def __len__(self) -> int:
        """Number of control steps kept of each simulation."""
        return self.position - self.oldest

    @property
    def bytes_per_transition(self) -> int:
        return _bytes(self.widths, self.beliefs.shape[-1])

    def add(self, columns: Mapping[str, Tensor], belief: Tensor) -> None:
        """Add a step: columns (N, width), or (N,) for width 1, bool or float; belief (N, B) before it."""
        assert columns.keys() == self.widths.keys()
        slot, num_envs = self.position % self.steps, self.rows.shape[1]
        parts = [columns[name].reshape(num_envs, width) for name, width in self.widths.items()]
        torch.cat(parts, -1, out=self.rows[slot])
        self.beliefs[slot] = belief
        self.position += 1

    def sample(self, windows: int, length: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """M windows of L consecutive control steps: rows (L, M, C), and the belief (M, B) before each window.

        Uniform, with replacement, over the windows of L kept steps of one simulation. Windows may contain
        ends of episodes. Raises ValueError unless 1 <= L <= len(self).
        """
        return self.take(self.pick(windows, length, rng), length)

    def pick(self, windows: int, length: int, rng: torch.Generator) -> Tensor:
        """The first steps (M,) of windows as `sample` draws them: t N + n of step t of simulation n.

        t counts as `position` does. Raises ValueError as `sample`.
        """
        starts = len(self) - length + 1
        if not 1 <= starts <= len(self):
            raise ValueError(f"a window must have from 1 to the {len(self)} control steps kept, got {length}")
        num_envs = self.rows.shape[1]
        # one draw picks both step and simulation
        first = self.oldest * num_envs
        bounds = first, first + starts * num_envs
        return torch.randint(*bounds, (windows,), generator=rng, device=self.rows.device)

    def take(self, picked: Tensor, length: int = 1) -> tuple[Tensor, Tensor]:
        """The windows that begin at `picked` (M,), see `pick`: rows (L, M, C), belief (M, B) before each."""
        steps, num_envs, columns = self.rows.shape
        # the next step of a simulation is N further
        ahead = torch.arange(0, length * num_envs, num_envs, device=picked.device)
        index = (picked + ahead[:, None]).remainder_(steps * num_envs)  # (L, M)
        rows = self.rows.view(-1, columns).index_select(0, index.view(-1)).view(length, len(picked), columns)
        return rows, self.beliefs.flatten(0, 1).index_select(0, index[0])

    def state_dict(self) -> dict[str, Tensor]:
        """Steps ever added ("position"); views ("tail", "tail_belief") of those after the last segment."""
        begin = self.position // self.segment * self.segment
        tail = {"tail": self.rows, "tail_belief": self.beliefs}
        views = {name: self._view(kept, begin, self.position) for name, kept in tail.items()}
        return {"position": torch.tensor(self.position), **views}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a `state_dict`; afterwards call `load_segment` for each of `segments`.

        Raises ValueError for the state of a replay of another size.
        """
        position = int(state["position"])
        begin = position // self.segment * self.segment
        for name, kept in (("tail", self.rows), ("tail_belief", self.beliefs)):
            _copy(name, self._view(kept, begin, position), state[name])
        self.position, self.digests = position, {}

    def segments(self) -> dict[int, dict[str, Tensor]]:
        """Views of the whole segments, by number: `rows` (S, N, C) and `belief` (S, N, B).

        Number k has the control steps kS to (k + 1)S - 1 and never changes.
        """
        kept = range(self.oldest // self.segment, self.position // self.segment)
        return {number: self._segment(number) for number in kept}

    def load_segment(self, number: int, tensors: Mapping[str, Tensor]) -> None:
        """Restore one of `segments`. Raises ValueError for a number not among them, or for other shapes."""
        kept = self.segments()
        if number not in kept:
            now = f"at control step {self.position}; it keeps {[*kept]}"
            raise ValueError(f"no segment {number} is kept {now}")
        for name, view in kept[number].items():
            _copy(f"{name} of segment {number}", view, tensors[name])

    def _segment(self, number: int) -> dict[str, Tensor]:
        begin, end = number * self.segment, (number + 1) * self.segment
        return {"rows": self._view(self.rows, begin, end), "belief": self._view(self.beliefs, begin, end)}

    def _view(self, kept: Tensor, begin: int, end: int) -> Tensor:
        """View of control steps begin to end - 1 of one segment; contiguous, as T is a multiple of S."""
        slot = begin % self.steps
        return kept[slot : slot + end - begin]


def check_fits(
    widths: Mapping[str, int],
    belief_size: int,
    num_envs: int,
    capacity: int,
    device: torch.device | str = "cpu",
) -> None:
    """Raise OptionError for a capacity below one step of each simulation, or above the free memory if known.

    capacity: transitions of this process. On the CPU the memory is shared by all processes of the machine.
    """
    among = "" if world() == 1 else f" in each of {world()} processes"
    if capacity < max(1, num_envs):
        rule = f"replay must hold at least one control step of each simulation ({num_envs}{among})"
        raise OptionError(f"{rule}, got {capacity} transitions{among}")
    each, (steps, _) = _bytes(widths, belief_size), _layout(num_envs, capacity)
    # each process on this machine has a replay
    sharing = here()[1] if torch.device(device).type == "cpu" else 1
    total, free = each * steps * num_envs * sharing, free_memory(torch.device(device))
    if free is not None and total > free:
        size = f"replay ({capacity} transitions of {each} bytes{among}) takes {_gigabytes(total)}"
        raise OptionError(f"{size}; {_gigabytes(free)} are free on {device}: make it smaller")


def free_memory(device: torch.device) -> int | None:
    """Free memory of a device in bytes, within a container's limit; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu" or not MEMINFO.exists():
        return None
    fields = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
    if "MemAvailable" not in fields:
        return None
    free = int(fields["MemAvailable"].split()[0]) * 1024
    files = [CGROUP / f"memory.{name}" for name in ("max", "current", "stat")]
    if not all(file.exists() for file in files):
        return free
    most, used, stat = (file.read_text().split() for file in files)
    if most == ["max"]:
        return free
    cached = dict(zip(stat[::2], stat[1::2], strict=True)).get("inactive_file", 0)  # reclaimable
    return min(free, max(0, int(most[0]) - int(used[0]) + int(cached)))


def _layout(num_envs: int, capacity: int) -> tuple[int, int]:
    """T and S of a ring of `capacity` transitions, see Replay."""
    asked = -(-capacity // num_envs)
    segment = max(1, asked // SEGMENTS)
    return -(-asked // segment) * segment, segment


def _bytes(widths: Mapping[str, int], belief_size: int) -> int:
    return 4 * (sum(widths.values()) + belief_size)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB" if count < 1e12 else f"{count / 1e9:,.0f} GB"


def _copy(name: str, to: Tensor, value: Tensor) -> None:
    if to.shape != value.shape or to.dtype != value.dtype:
        ours, theirs = (f"{tuple(t.shape)} {t.dtype}" for t in (to, value))
        raise ValueError(f"{name} of a replay of this size is {ours}, got {theirs}")
    to.copy_(value)
