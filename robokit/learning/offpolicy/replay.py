"""The off-policy memory: the last control steps of N simulations, sampled as windows of consecutive ones.

    replay = Replay({"obs": 17, "action": 6, "reward": 1}, belief_size=0, num_envs=1, capacity=1_000_000)
    replay.add({"obs": obs, "action": action, "reward": reward}, belief)
    rows, belief = replay.sample(windows=256, length=1, rng=rng)

Its past is kept, written and forgotten in segments of S control steps, which never change once they are
whole: a checkpoint writes each of them once.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from robokit.compute.processes import here, world
from robokit.errors import OptionError

SEGMENTS = 64  # that a full ring is cut into at least: from 64 to 127, fewer only where t < 64
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")  # a container may have less


class Replay:
    """A ring of the last control steps of N simulations, all float32, on the learner's device.

    With t = ceil(capacity / N) steps asked for, S = max(1, t // 64) and T is t rounded up to a multiple of S.
    When a step enters a segment of a full ring, the S steps that were there are forgotten together: once
    full, from T - S + 1 to T steps of each simulation are kept, and exactly t of them where t < 128.

    Memory is taken as it is filled, T * N * bytes_per_transition in the end; on CUDA at once.
    """

    rows: Tensor  # (T, N, C) columns side by side, in the order of `widths`
    beliefs: Tensor  # (T, N, B) before each step
    position: int  # control steps ever added
    digests: dict[int, str]  # sha256 of the file of each segment that has one: the checkpoints' to keep

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
        """The first control step that is still kept, counted as `position` is: always a segment's first."""
        return max(0, -(-self.position // self.segment) * self.segment - self.steps)

    def __len__(self) -> int:
        """Control steps kept, of each simulation."""
        return self.position - self.oldest

    @property
    def bytes_per_transition(self) -> int:
        return _bytes(self.widths, self.beliefs.shape[-1])

    def add(self, columns: Mapping[str, Tensor], belief: Tensor) -> None:
        """One control step: each column (N, width), or (N,) where that is 1, bool or float; belief (N, B)."""
        assert columns.keys() == self.widths.keys()
        slot, num_envs = self.position % self.steps, self.rows.shape[1]
        parts = [columns[name].reshape(num_envs, width) for name, width in self.widths.items()]
        torch.cat(parts, -1, out=self.rows[slot])
        self.beliefs[slot] = belief
        self.position += 1

    def sample(self, windows: int, length: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """M windows of L consecutive control steps of one simulation, with the belief before the first.

        Rows (L, M, C) and belief (M, B): uniform, with replacement, over all windows whose L steps are kept.
        They may go across the end of an episode; the rows' own flags say where.
        """
        starts = len(self) - length + 1
        if not 1 <= starts <= len(self):
            raise ValueError(f"a window must have from 1 to the {len(self)} control steps kept, got {length}")
        steps, num_envs, columns = self.rows.shape
        # step t of simulation n is number t N + n: one draw picks both, and the next step lies N further
        first, device = self.oldest * num_envs, self.rows.device
        bounds = first, first + starts * num_envs
        picked = torch.randint(*bounds, (windows,), generator=rng, device=device)
        ahead = torch.arange(0, length * num_envs, num_envs, device=device)
        index = (picked + ahead[:, None]).remainder_(steps * num_envs)  # (L, M)
        rows = self.rows.view(-1, columns).index_select(0, index.view(-1)).view(length, windows, columns)
        return rows, self.beliefs.flatten(0, 1).index_select(0, index[0])

    def state_dict(self) -> dict[str, Tensor]:
        """`position`, and views of what was added since the last whole segment; the others: `segments`."""
        begin = self.position // self.segment * self.segment
        tail = {"tail": self.rows, "tail_belief": self.beliefs}
        views = {name: self._view(kept, begin, self.position) for name, kept in tail.items()}
        return {"position": torch.tensor(self.position), **views}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go to a saved position; then `load_segment` for each of the `segments` that are kept there.

        Raises ValueError for what a replay of this size cannot have saved.
        """
        position = int(state["position"])
        begin = position // self.segment * self.segment
        for name, kept in (("tail", self.rows), ("tail_belief", self.beliefs)):
            _copy(name, self._view(kept, begin, position), state[name])
        self.position, self.digests = position, {}

    def segments(self) -> dict[int, dict[str, Tensor]]:
        """Views of the whole segments that are kept: number k holds the control steps from kS up to (k + 1)S.

        `rows` (S, N, C) and `belief` (S, N, B); what a number holds never changes.
        """
        kept = range(self.oldest // self.segment, self.position // self.segment)
        return {number: self._segment(number) for number in kept}

    def load_segment(self, number: int, tensors: Mapping[str, Tensor]) -> None:
        """Fill one of `segments`. Raises ValueError for one that is not kept, or of another size."""
        kept = self.segments()
        if number not in kept:
            raise ValueError(
                f"no segment {number} is kept at control step {self.position}; it keeps {[*kept]}"
            )
        for name, view in kept[number].items():
            _copy(f"{name} of segment {number}", view, tensors[name])

    def _segment(self, number: int) -> dict[str, Tensor]:
        begin, end = number * self.segment, (number + 1) * self.segment
        return {"rows": self._view(self.rows, begin, end), "belief": self._view(self.beliefs, begin, end)}

    def _view(self, kept: Tensor, begin: int, end: int) -> Tensor:
        """Control steps of one segment: they lie in one piece, as T is a multiple of S."""
        slot = begin % self.steps
        return kept[slot : slot + end - begin]


def check_fits(
    widths: Mapping[str, int],
    belief_size: int,
    num_envs: int,
    capacity: int,
    device: torch.device | str = "cpu",
) -> None:
    """Raise OptionError for a replay that holds no step of each simulation, or more than memory is free."""
    among = "" if world() == 1 else f" in each of {world()} processes"
    if capacity < max(1, num_envs):
        rule = f"replay must hold at least one control step of each simulation ({num_envs}{among})"
        raise OptionError(f"{rule}, got {capacity} transitions{among}")
    each, (steps, _) = _bytes(widths, belief_size), _layout(num_envs, capacity)
    # other processes on this machine have as much
    sharing = here()[1] if torch.device(device).type == "cpu" else 1
    total, free = each * steps * num_envs * sharing, free_memory(torch.device(device))
    if free is not None and total > free:
        size = f"replay ({capacity} transitions of {each} bytes{among}) takes {_gigabytes(total)}"
        raise OptionError(f"{size}; {_gigabytes(free)} are free on {device}: make it smaller")


def free_memory(device: torch.device) -> int | None:
    """Bytes that a program may still take on a device; None where nobody can tell."""
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
    cached = dict(zip(stat[::2], stat[1::2], strict=True)).get("inactive_file", 0)  # given up on demand
    return min(free, max(0, int(most[0]) - int(used[0]) + int(cached)))


def _layout(num_envs: int, capacity: int) -> tuple[int, int]:
    """T and S of a ring for `capacity` transitions."""
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
