"""PPO against Stable-Baselines3, its special cases A2C and REINFORCE, and values computed by hand."""

import dataclasses
import math

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.logger import Logger

from robokit.algos.ppo import (
    Config,
    Learner,
    adapt_lr,
    adapt_penalty,
    make_loss,
    surrogate_clip,
    surrogate_penalty,
    value_loss,
)
from robokit.env.env import Env, make
from robokit.errors import OptionError
from robokit.learning.returns import shares, standardize
from robokit.networks.distributions import log_prob
from robokit.task.lookup.find import load_task

InvertedPendulum = type(load_task("inverted_pendulum"))
TINY = Config(num_envs=4, horizon=16, minibatch=64, epochs=1, hidden=(16, 16), normalize_obs=False)


def tiny(seed: int = 0, **changes: object) -> Learner:
    config = dataclasses.replace(TINY, **changes)  # pyright: ignore[reportArgumentType]
    return Learner(make("inverted_pendulum", config.simulations, threads=1), config, seed)


def copy_from_sb3(model: PPO, learner: Learner) -> None:
    theirs, ours = model.policy.state_dict(), learner.net.state_dict()
    names = {"policy.log_std": "log_std"}
    for part, extractor, last in (
        ("policy.head", "policy_net", "action_net"),
        ("critic.heads.0", "value_net", "value_net"),
    ):
        for kind in ("weight", "bias"):
            for layer in (0, 2):
                names[f"{part}.{layer}.{kind}"] = f"mlp_extractor.{extractor}.{layer}.{kind}"
            names[f"{part}.4.{kind}"] = f"{last}.{kind}"
    for mine, other in names.items():
        ours[mine].copy_(theirs[other])


def sb3_update(model: PPO, learner: Learner, batch: dict[str, torch.Tensor]) -> dict[str, float]:
    """Stable-Baselines3's own train() on one minibatch that holds our numbers; gradients stay in .grad."""
    buffer = model.rollout_buffer
    buffer.reset()
    shape = (buffer.buffer_size, buffer.n_envs)
    buffer.observations = batch["obs"].reshape(*shape, -1).numpy().copy()
    buffer.actions = batch["action"].reshape(*shape, -1).numpy().copy()
    for name, key in (
        ("values", "value"),
        ("log_probs", "log_prob"),
        ("advantages", "advantage"),
        ("returns", "target"),
    ):
        setattr(buffer, name, batch[key].reshape(shape).numpy().copy())
    buffer.full = True
    logger = Logger(None, [])
    model.set_logger(logger)
    model.train()
    return {k: float(v) for k, v in logger.name_to_value.items() if isinstance(v, float | np.floating)}


GRADIENTS = {
    "policy.head.0.weight": "mlp_extractor.policy_net.0.weight",
    "policy.head.4.bias": "action_net.bias",
    "policy.log_std": "log_std",
    "critic.heads.0.2.weight": "mlp_extractor.value_net.2.weight",
    "critic.heads.0.4.weight": "value_net.weight",
}


def a_batch(learner: Learner, shift: float = 0.0) -> dict[str, torch.Tensor]:
    """One rollout as chunks of one step, (1, M, ...); `shift` moves the old log-probs from a ratio of 1."""
    rollout = learner.collect()
    value, advantage, target, _ = learner.targets(rollout)
    columns = ("obs", "state", "is_first", "action", "mean", "log_prob")
    flat = {k: getattr(rollout, k).flatten(0, 1) for k in columns}
    flat |= {"advantage": advantage.flatten(), "value": value.flatten(0, 1), "target": target.flatten(0, 1)}
    noise = torch.randn(len(flat["value"]), generator=torch.Generator().manual_seed(0))
    flat["log_prob"] = flat["log_prob"] + shift * noise
    return {k: v[None] for k, v in (flat | {"valid": ~rollout.bad.flatten()}).items()}


@torch.no_grad()
def value_of(learner: Learner, state: torch.Tensor) -> torch.Tensor:
    """V(state), (M,), of a critic without memory."""
    return learner.critic(state, torch.zeros(len(state), 0), torch.zeros(len(state), dtype=torch.bool))[0][
        :, 0
    ]


def gradients(
    learner: Learner, batch: dict[str, torch.Tensor]
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """The loss's parts and its gradient by parameter."""
    loss = make_loss(learner.config)
    batch = batch | {"share": shares(batch["valid"])}
    if learner.config.normalize_advantage:
        batch["advantage"] = standardize(batch["advantage"], batch["valid"])
    belief = torch.zeros(batch["obs"].shape[1], 0)
    scalars = torch.tensor(1.0), torch.tensor(learner.config.entropy_coef)
    total, parts = loss(learner.net, batch, belief, learner.policy.log_std.detach(), *scalars)
    names, params = zip(*learner.net.named_parameters(), strict=True)
    grads = torch.autograd.grad(total, params, allow_unused=True)
    return {k: v.item() for k, v in parts.items()}, dict(zip(names, grads, strict=True))


def test_one_update_from_equal_weights_and_batch_has_the_losses_and_gradients_of_stable_baselines3():
    learner = tiny(entropy_coef=0.01, max_grad_norm=1e9, clip=0.05)
    environment = gymnasium.make("InvertedPendulum-v5")
    options = {
        "clip_range": 0.05,
        "ent_coef": 0.01,
        "max_grad_norm": 1e9,
        "policy_kwargs": {"net_arch": [16, 16]},
    }
    model = PPO(
        "MlpPolicy", environment, n_steps=64, batch_size=64, n_epochs=1, device="cpu", seed=3, **options
    )
    batch = a_batch(learner, shift=0.1)
    copy_from_sb3(model, learner)
    ours, grads = gradients(learner, batch)
    theirs = sb3_update(model, learner, batch)
    assert ours["policy"] == pytest.approx(theirs["train/policy_gradient_loss"], abs=1e-5)
    assert ours["value"] == pytest.approx(theirs["train/value_loss"], abs=1e-5)
    assert -ours["entropy"] == pytest.approx(theirs["train/entropy_loss"], abs=1e-5)
    assert 0.2 < ours["clipped"] == pytest.approx(theirs["train/clip_fraction"], abs=1e-5)
    their_parameters = dict(model.policy.named_parameters())
    for mine, name in GRADIENTS.items():
        torch.testing.assert_close(grads[mine], their_parameters[name].grad, atol=1e-5, rtol=1e-5)


def test_advantages_and_targets_are_stable_baselines3s_where_no_episode_is_cut_by_time():
    learner = tiny(scale_reward=False)
    rollout = learner.collect()
    rollout.terminated = rollout.done
    value, advantage, target, _ = learner.targets(rollout)
    buffer = RolloutBuffer(16, gymnasium.spaces.Box(-1, 1, (4,)), gymnasium.spaces.Box(-1, 1, (1,)),
                           "cpu", gae_lambda=0.95, gamma=0.99, n_envs=4)  # fmt: skip
    buffer.rewards, buffer.values = rollout.reward.numpy(), value[..., 0].detach().numpy()
    buffer.episode_starts = torch.cat((torch.zeros(1, 4), rollout.done[:-1].float())).numpy()
    last = value_of(learner, rollout.final_state[-1])
    buffer.compute_returns_and_advantage(last, rollout.done[-1].numpy())
    torch.testing.assert_close(advantage, torch.from_numpy(buffer.advantages), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(target[..., 0], torch.from_numpy(buffer.returns), atol=1e-5, rtol=1e-5)


def test_a2c_is_the_first_epoch_its_gradient_is_that_of_log_prob_times_advantage():
    learner = tiny(normalize_advantage=False, value_coef=0.0, lam=1.0)
    batch = a_batch(learner)
    _, grads = gradients(learner, batch)
    mean, log_std, _ = learner.net(batch["obs"], batch["state"], batch["is_first"], torch.zeros(64, 0))
    textbook = -(log_prob(batch["action"], mean, log_std) * batch["advantage"]).mean()
    names, params = zip(*learner.policy.named_parameters(), strict=True)
    for name, grad in zip(names, torch.autograd.grad(textbook, params), strict=True):
        torch.testing.assert_close(grads[f"policy.{name}"], grad)


def test_reinforce_weighs_log_prob_by_the_return_that_followed():
    learner = tiny(normalize_advantage=False, value_coef=0.0, lam=1.0, baseline=False, scale_reward=False)
    rollout = learner.collect()
    rollout.terminated = rollout.done.clone()
    rollout.done[-1] = rollout.terminated[-1] = True
    _, advantage, *_ = learner.targets(rollout)
    for n in range(4):
        for t in range(16):
            expected, discount = 0.0, 1.0
            for k in range(t, 16):
                expected += discount * rollout.reward[k, n].item()
                discount *= 0.99
                if rollout.done[k, n]:
                    break
            assert advantage[t, n].item() == pytest.approx(expected, rel=1e-5)


def test_the_first_gradient_step_on_a_rollout_starts_at_a_ratio_of_exactly_one():
    learner = tiny(normalize_obs=True, horizon=32, minibatch=128)
    for metrics in (learner.iterate() for _ in range(3)):  # the normaliser moves between rollouts, not within
        assert metrics["loss/clipped"] == 0.0 and abs(metrics["loss/kl"]) < 1e-9


def test_the_sample_is_stored_as_it_was_drawn_and_the_simulation_gets_it_clipped():
    learner = tiny(init_std=3.0)
    rollout = learner.collect()
    assert rollout.action.abs().max() > 1.0
    density = log_prob(rollout.action, rollout.mean, learner.policy.log_std)
    torch.testing.assert_close(rollout.log_prob, density.detach())
    went_on = ~rollout.done[-1]
    held = learner.env.sim.memory["action"][went_on]
    assert torch.equal(held, rollout.action[-1, went_on].clamp(-1, 1).double()) and len(held)


def test_a_time_out_keeps_the_value_of_the_state_before_the_reset():
    learner = tiny(scale_reward=False, lam=0.0)
    rollout = learner.collect()
    rollout.done[5, 2], rollout.terminated[5, 2] = True, False
    rollout.final_state[5, 2] += 1.0  # not what the next episode begins with
    value, advantage, *_ = learner.targets(rollout)
    expected = (
        rollout.reward[5, 2] + 0.99 * value_of(learner, rollout.final_state[5, 2][None])[0] - value[5, 2, 0]
    )
    assert advantage[5, 2].item() == pytest.approx(expected.item(), abs=1e-6)
    rollout.terminated[5, 2] = True
    _, advantage, *_ = learner.targets(rollout)
    assert advantage[5, 2].item() == pytest.approx((rollout.reward[5, 2] - value[5, 2, 0]).item(), abs=1e-6)


def test_clipped_surrogate_by_hand():
    ratio, advantage = torch.tensor([1.5, 1.5, 0.5, 0.5]), torch.tensor([2.0, -2.0, 2.0, -2.0])
    assert surrogate_clip(ratio, advantage, 0.2).tolist() == pytest.approx([2.4, -3.0, 1.0, -1.6])


def test_penalty_by_hand_and_its_weight_follows_the_paper():
    penalized = surrogate_penalty(
        torch.tensor([1.5]), torch.tensor([2.0]), torch.tensor([0.1]), torch.tensor(4.0)
    )
    assert penalized.item() == pytest.approx(3.0 - 0.4)
    beta, target = torch.tensor(1.0), 0.015
    assert [adapt_penalty(beta, torch.tensor(d), target).item() for d in (0.009, 0.015, 0.024)] == [
        0.5,
        1.0,
        2.0,
    ]


def test_adaptive_learning_rate_falls_above_twice_the_target_and_rises_below_half_of_it():
    lr = torch.tensor(3e-4)
    moved = [adapt_lr(lr, torch.tensor(d), 0.01).item() for d in (0.021, 0.01, 0.004)]
    assert moved == pytest.approx([2e-4, 3e-4, 4.5e-4])
    assert adapt_lr(torch.tensor(1e-5), torch.tensor(1.0), 0.01).item() == pytest.approx(1e-5)


def test_value_clipping_takes_the_larger_error_by_hand():
    value, old, target = torch.tensor([2.0, 2.0]), torch.tensor([0.0, 0.0]), torch.tensor([2.0, 5.0])
    assert value_loss(value, old, target, None).tolist() == [0.0, 9.0]
    assert value_loss(value, old, target, 0.5).tolist() == [2.25, 20.25]


def test_bad_transitions_stay_out_of_losses_and_of_the_standardization():
    x, valid = torch.tensor([1.0, 3.0, float("nan")]), torch.tensor([True, True, False])
    assert standardize(x, valid)[:2].tolist() == pytest.approx([-0.7071068, 0.7071068])
    learner = tiny()
    batch = a_batch(learner)
    clean, grads = gradients(learner, {k: v[:-1] for k, v in batch.items()})
    batch["valid"][-1] = False
    batch["advantage"][-1] = batch["target"][-1] = 1e6
    parts, masked = gradients(learner, batch)
    assert parts["value"] == pytest.approx(clean["value"], rel=1e-5)
    torch.testing.assert_close(
        masked["policy.head.0.weight"], grads["policy.head.0.weight"], rtol=1e-4, atol=1e-7
    )


def test_a_scheduled_learning_rate_is_at_its_end_after_the_last_step():
    learner = tiny(steps=3 * 64, lr=(3e-4, 0.0), entropy_coef=(0.1, 0.4))
    rows = [learner.iterate() for _ in range(4)]
    assert [row["policy/lr"] for row in rows] == pytest.approx([3e-4, 2e-4, 1e-4, 0.0], abs=1e-9)
    assert [row["schedule/entropy_coef"] for row in rows] == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_the_loss_has_the_entropy_bonus_of_the_moment():
    still, fading = tiny(entropy_coef=0.2), tiny(entropy_coef=(0.4, 0.0), steps=128)
    fading.schedules.advance(64)  # half of the way
    assert still.iterate()["policy/std"] == fading.iterate()["policy/std"] != tiny().iterate()["policy/std"]


ADAPTIVE = {"objective": "penalty", "lr_schedule": "adaptive", "belief": "stack"}
LINEAR = {"lr": (3e-4, 0.0), "entropy_coef": (0.01, 0.0)}


@pytest.mark.parametrize(
    "changes", [{}, ADAPTIVE, LINEAR, pytest.param({"compile": True}, marks=pytest.mark.slow)]
)
def test_a_learner_continues_bit_for_bit(changes):
    straight = tiny(epochs=2, minibatch=32, normalize_obs=True, **changes)
    first = [straight.iterate() for _ in range(2)]
    saved = straight.state_dict()
    rest = [straight.iterate() for _ in range(3)]
    other = tiny(seed=5, epochs=2, minibatch=32, normalize_obs=True, **changes)
    other.load_state_dict(saved)
    assert [other.iterate() for _ in range(3)] == rest != first
    for name, value in straight.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_equal_seeds_learn_equally_and_others_do_not():
    same, again, other = (tiny(seed).iterate() for seed in (0, 0, 1))
    assert same == again != other


@pytest.mark.slow
def test_the_compiled_update_is_the_eager_one():
    eager, compiled = (tiny(epochs=2, minibatch=32, compile=c) for c in (False, True))
    rollout = eager.collect()
    compiled.collect()
    ours, theirs = eager.learn(rollout), compiled.learn(rollout)
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-3, atol=1e-5)
    for a, b in zip(eager.net.parameters(), compiled.net.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minibatch": 63}, "must divide"),
        ({"clip": 0.0}, "clip"),
        ({"gamma": 1.5}, "gamma"),
        ({"value_clip": 0.0}, "value_clip must be > 0, got 0.0"),
        ({"value_clip": math.inf}, "value_clip must be finite, got inf"),
        ({"value_coef": math.nan}, "value_coef must be finite and at least 0, got nan"),
        ({"entropy_coef": (0.1, -0.1)}, r"entropy_coef must be finite and at least 0, got \(0.1, -0.1\)"),
        ({"lr": (0.0, 3e-4)}, r"lr must be > 0 at step 0, got \(0.0, 0.0003\)"),
        (
            {"lr": (3e-4, 0.0), "lr_schedule": "adaptive"},
            r"lr_schedule 'adaptive' moves lr from one number, got \(0.0003, 0.0\)",
        ),
        ({"entropy_coef": -0.1}, "entropy_coef must be finite and at least 0, got -0.1"),
        ({"steps": 0}, "steps"),
        (
            {"lr_schedule": "adaptive", "num_envs": 4, "horizon": 16, "minibatch": 64, "epochs": 1},
            "adaptive follows the KL .* 0 at the first .*; epochs 1 and a minibatch of all 64 take",
        ),
        (
            {"objective": "penalty", "num_envs": 4, "horizon": 16, "minibatch": 64, "epochs": 1},
            "penalty follows the KL",
        ),
    ],
)
def test_impossible_options_are_refused_before_anything_runs(changes, message):
    with pytest.raises(OptionError, match=message):
        tiny(**changes)


def test_only_the_critic_sees_the_privileged_terms():
    class Told(InvertedPendulum):  # pyright: ignore
        def privileged(self, sim):
            return {"force": sim.ctrl * 2.0}

    learner = Learner(Env(Told(), 4, threads=1), TINY)
    rollout = learner.collect()
    assert rollout.obs.shape[-1] == 4 and rollout.state.shape[-1] == 5
    assert torch.equal(rollout.state[..., :4], rollout.obs)
    assert torch.equal(rollout.final_state[..., 4], 2.0 * 3.0 * rollout.action[..., 0].clamp(-1, 1))


def test_a_metric_is_averaged_where_it_is_not_nan_and_left_out_where_it_always_is():
    class Counted(InvertedPendulum):  # pyright: ignore
        def metrics(self, sim):
            x = sim.qpos[:, 0].float()
            return {"right": torch.where(x > 0, x, torch.nan), "never": torch.full_like(x, torch.nan)}

    learner = Learner(Env(Counted(), 4, threads=1), TINY)
    rollout = learner.collect()
    means = dict(zip(learner.env.labels, rollout.logged, strict=True))
    x = rollout.final_state[..., 0]
    assert means["metric/right"].item() == pytest.approx(x[x > 0].mean().item())
    logged = learner.iterate()
    assert "metric/right" in logged
    assert "metric/never" not in logged


@pytest.mark.medium
def test_ppo_balances_the_pendulum():
    learner = tiny(num_envs=16, horizon=64, minibatch=64, epochs=10, normalize_obs=True, lr=1e-3)
    lengths = [learner.iterate().get("episode/length", 0.0) for _ in range(40)]
    assert max(lengths[:3]) < 30 < 150 < max(lengths)


def test_each_minibatch_has_advantages_of_deviation_1_and_shares_of_the_valid_that_sum_to_1():
    learner = tiny(num_envs=4, horizon=16, minibatch=16)
    widths = list(learner.widths.values())
    rows = torch.randn(3, 16, 1, sum(widths), generator=torch.Generator().manual_seed(0))
    names = dict(zip(learner.widths, rows.split(widths, -1), strict=True))
    names["share"].fill_(1.0)
    names["share"][1, :4] = 0.0
    before = rows.clone()
    ready = dict(zip(learner.widths, learner._ready(rows).split(widths, -1), strict=True))
    assert ready["share"].sum((1, 2, 3)).tolist() == pytest.approx([1.0] * 3)
    assert ready["share"][1, :5].flatten().tolist() == pytest.approx([0.0] * 4 + [1 / 12])
    advantage = ready["advantage"][1, 4:]
    assert advantage.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert advantage.std().item() == pytest.approx(1.0, abs=1e-6)
    changed = (ready["obs"] != before.split(widths, -1)[0]).any()
    assert not changed
    kept = tiny(normalize_advantage=False, num_envs=4, horizon=16, minibatch=16)
    column = list(learner.widths).index("advantage")
    assert torch.equal(
        kept._ready(before.clone()).split(widths, -1)[column], before.split(widths, -1)[column]
    )
