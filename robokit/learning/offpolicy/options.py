"""Options of off-policy algorithms, with defaults that depend on the number of simulations."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from robokit.compute.compile import Sizes
from robokit.compute.processes import world
from robokit.errors import OptionError
from robokit.learning.options import Options, check_chunk, check_options, check_shared, each_of, recurrent

ITERATION, LEAST, MOST = 1000, 100, 10_000  # see Pace.transitions
MOST_EACH = 1000  # gradient steps in one control step


@dataclass(frozen=True)
class OffPolicyOptions(Options):
    """Options of every off-policy algorithm."""

    usual_num_envs = 1

    num_envs: int | None = None  # N, simulations stepped together; None: 1, the papers' setting
    replay: int = 1_000_000  # transitions kept in the replay
    # transitions of random actions before the first gradient step; None: 5000, or 10 control steps if more
    learning_starts: int | None = None
    # transitions per gradient step; None: 8 num_envs, from 256 to 8192, rounded down to whole windows
    batch: int | None = None
    # gradient steps per transition (update to data); None: 1, but at most 8 in a control step
    utd: float | None = None
    n_step: int = 1  # n, rewards summed in a critic target before it bootstraps
    tau: float = 0.005  # step of the target networks towards the online networks (Polyak averaging)
    critics: int = 2  # E, Q networks
    reduce: Literal["min", "mean"] = "min"  # over the E critics, in targets and in SAC's policy objective
    layer_norm: bool = False  # in the hidden layers of the critics
    window: int = 16  # L, control steps of backpropagation through a recurrent belief; must divide batch
    burn_in: int = 0  # control steps before the window, to update the stored belief without a gradient
    belief_lr: float = 1e-4  # learning rate of recurrent beliefs; it moves with lr, this at its largest
    pessimism: float = 1.0  # k of a cost's upper bound: mean + k standard deviations over the critics
    bf16: bool = False  # matrix products between the critics' hidden layers in bfloat16

    @property
    def sizes(self) -> Sizes:
        """Number and size of gradient steps, for `compute.compile.choose`."""
        pace = Pace.of(self)
        unrolled = self.burn_in + self.window if recurrent(self) else 1
        return Sizes(pace.gradients(self.steps), pace.batch // world(), unrolled)


class Pace(NamedTuple):
    """The options learning_starts, batch and utd, over all processes; the following where an option is None.

    starts: 5000 transitions or 10 control steps, whichever is more. batch: 8 N, from 256 to 8192, rounded
    down to whole windows in each process. utd: 1 gradient step per transition, at most 8 in a control step.
    As in the papers for one simulation, for many as in FastTD3 and FastSAC (Seo et al. 2025): batches of
    8192 and 8 gradient steps in a control step.
    """

    starts: int
    batch: int
    utd: float

    @classmethod
    def of(cls, config: OffPolicyOptions) -> "Pace":
        starts, batch, utd = config.learning_starts, config.batch, config.utd
        num_envs = config.simulations
        whole = min(max(256, 8 * num_envs), 8192)
        unit = world() * (config.window if recurrent(config) else 1)  # a batch is a multiple of it
        whole = max(whole - whole % unit, unit)
        return cls(
            max(5_000, 10 * num_envs) if starts is None else starts,
            whole if batch is None else batch,
            min(1.0, 8 / num_envs) if utd is None else utd,
        )

    def gradients(self, transitions: int) -> int:
        """Gradient steps due in all after so many transitions: utd for each after `starts`, rounded down."""
        return int(max(0, transitions - self.starts) * self.utd)

    @property
    def transitions(self) -> float:
        """Transitions per iteration; multipliers are updated and metrics logged once per iteration."""
        return self.iteration(ITERATION)

    def iteration(self, usual: float) -> float:
        """`usual` transitions, or `usual` gradient steps if utd > 1.

        With a small utd as many as LEAST gradient steps take, but at most MOST transitions: the policy must
        be able to follow the multipliers.
        """
        return max(usual / max(1.0, self.utd), min(LEAST / self.utd, MOST))


def check_off_policy(config: OffPolicyOptions) -> None:
    """Raise OptionError for an invalid option or combination of options."""
    positive = "replay", "learning_starts", "batch", "utd", "n_step", "critics", "tau", "belief_lr", "window"
    check_options(config, positive, ("burn_in", "pessimism"), ("tau",))
    pace = Pace.of(config)
    check_shared(batch=pace.batch)
    _check_pace(config, pace)
    _check_memory(config, pace.batch)
    _check_critics(config)


def _check_pace(config: OffPolicyOptions, pace: Pace) -> None:
    window = config.window if recurrent(config) else 1
    for name, value, most, bound, rule in (
        ("window", window, "learning_starts", pace.starts, "the transitions stored when learning starts"),
        ("batch", pace.batch, "learning_starts", pace.starts, "the transitions stored when learning starts"),
        ("learning_starts", pace.starts, "replay", config.replay, "the transitions kept"),
        ("learning_starts", pace.starts, "steps", config.steps, "the transitions of the training"),
    ):
        if value > bound:
            raise OptionError(f"{name} ({value}) must be at most {most} ({bound}), {rule}")
    if (each := pace.utd * config.simulations) > MOST_EACH:
        rule = f"gradient steps in a control step, at most {MOST_EACH}: a training stops and saves in between"
        raise OptionError(f"utd ({pace.utd:g}) asks for {each:g} {rule}")
    if pace.gradients(config.steps) < 1:
        rule = f"must leave a gradient step: learning_starts is {pace.starts}, utd {pace.utd:g}"
        raise OptionError(f"steps ({config.steps}) {rule}")


def _check_memory(config: OffPolicyOptions, batch: int) -> None:
    check_chunk(config, "window", batch // world(), each_of("batch", batch))
    if config.burn_in and not recurrent(config):
        rule = "has no use: neither belief nor critic_belief is recurrent"
        raise OptionError(f"burn_in ({config.burn_in}) {rule}")


def _check_critics(config: OffPolicyOptions) -> None:
    """Raise OptionError for pessimism, layer_norm or bf16 without the critics or hidden layers it needs."""
    if config.critics == 1 and config.pessimism not in (0, OffPolicyOptions.pessimism):
        rule = "counts deviations over the critics, of which there is one"
        raise OptionError(f"pessimism ({config.pessimism}) {rule}")
    if config.layer_norm and not config.hidden:
        raise OptionError("layer_norm needs hidden layers of the critics; hidden is ()")
    if config.bf16 and len(config.hidden) < 2:
        rule = "bf16 rounds products between hidden layers of the critics, so it needs two; hidden is"
        raise OptionError(f"{rule} {config.hidden}")
