"""The critics of rewards and of costs are separate networks, each with a belief of its own."""

import torch

from robokit.networks.belief import make_belief
from robokit.networks.critic import Critic


@torch.no_grad()
def test_rewards_and_costs_each_have_a_memory_of_their_own():
    torch.manual_seed(0)
    beliefs = [make_belief("gru", {"a": 2}, size=3) for _ in range(2)]
    critic = Critic(beliefs, outputs=[1, 2], state_dim=2, hidden=(4,), activation="tanh")
    state, before, first = torch.randn(5, 2), torch.randn(5, 6), torch.tensor([True] + [False] * 4)
    values, after = critic(state, before, first)
    for belief, head, columns, outputs in zip(
        beliefs, critic.heads, (slice(0, 3), slice(3, 6)), (slice(0, 1), slice(1, 3)), strict=True
    ):
        features, alone = belief(state, before[:, columns], first, critic.normalizer)
        torch.testing.assert_close(after[:, columns], alone)
        torch.testing.assert_close(values[:, outputs], head(features))
