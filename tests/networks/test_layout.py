"""Weights move by the names of what they belong to."""

import json
from dataclasses import replace

import pytest
import torch

from robokit.networks.layout import Axis, Layout, axes, moved, scales
from robokit.networks.normalizer import Normalizer

LAYOUT = Layout(
    kind="Gaussian",
    terms={"angle": 1, "action": 2},
    actuators={"hip": (0.0, 1.0), "knee": (0.5, 2.0)},
    belief="memoryless",
    hidden=(3,),
    activation="tanh",
    normalize_obs=True,
)


def test_columns_and_rows_follow_their_names_and_what_is_new_is_zero_or_as_it_was():
    theirs = torch.tensor([[1.0, 2.0], [3.0, 4.0]])  # rows a, b; columns x, y
    own = torch.full((3, 3), 9.0)  # rows b, c, a; columns new, y, x
    ours = {0: Axis([("b",), ("c",), ("a",)], False), 1: Axis([("new",), ("y",), ("x",)], True)}
    names = {0: Axis([("a",), ("b",)], False), 1: Axis([("x",), ("y",)], True)}
    found = moved({"w": own}, {"w": ours}, {"w": theirs}, {"w": names})["w"]
    assert found.tolist() == [[0.0, 4.0, 3.0], [9.0, 9.0, 9.0], [0.0, 2.0, 1.0]]


def test_a_tensor_without_names_moves_whole_one_that_lacks_stays_and_another_size_is_refused():
    own = {"w": torch.zeros(2), "mine": torch.ones(1)}
    assert moved(own, {}, {"w": torch.tensor([1.0, 2.0])}, {})["w"].tolist() == [1.0, 2.0]
    assert moved(own, {}, {"w": torch.zeros(2)}, {})["mine"].tolist() == [1.0]
    with pytest.raises(ValueError, match=r"w has shape \(2,\), the other one \(3,\)"):
        moved(own, {}, {"w": torch.zeros(3)}, {})


def test_a_stack_names_frames_by_their_age_so_that_a_longer_history_keeps_the_newest():
    old, new = (replace(LAYOUT, belief="stack", history={"angle": n, "action": 1}) for n in (2, 3))
    own, theirs = torch.full((3, 5), 9.0), torch.arange(12.0).view(3, 4)  # two frames, two of the action
    found = moved({"head.0.weight": own}, axes(new), {"head.0.weight": theirs}, axes(old))["head.0.weight"]
    assert found[0].tolist() == [0.0, 0.0, 1.0, 2.0, 3.0]


def test_a_term_of_another_width_has_no_column_in_common_and_previous_actions_are_named_by_actuator():
    wider = replace(LAYOUT, terms={"angle": 2, "action": 2})
    assert not set(LAYOUT.columns("angle")) & set(wider.columns("angle"))
    swapped = replace(LAYOUT, actuators={"knee": (0.5, 2.0), "hip": (0.0, 1.0)})
    assert swapped.columns("action") == LAYOUT.columns("action")[::-1]


def test_a_network_without_hidden_layers_has_names_in_both_dimensions():
    names = axes(replace(LAYOUT, hidden=()))
    assert names["head.0.weight"].keys() == {0, 1}
    assert names["head.0.bias"].keys() == {0}


def test_a_head_of_ones_own_has_no_names():
    assert LAYOUT.named and replace(LAYOUT, hidden=(), activation="").named
    assert not replace(LAYOUT, activation="Linear-LayerNorm-Linear").named


def test_a_layout_survives_json_and_keeps_every_order():
    again = Layout.of(json.loads(json.dumps(LAYOUT.facts())))
    assert again == LAYOUT
    assert [*again.terms] == [*LAYOUT.terms] and [*again.actuators] == [*LAYOUT.actuators]


def test_a_new_column_of_a_normaliser_learns_as_fast_as_in_a_new_one():
    torch.manual_seed(0)
    old, new, fresh = Normalizer(1), Normalizer(2), Normalizer(1)
    old.update(torch.randn(100_000, 1), torch.ones(100_000, dtype=torch.bool))
    ours, theirs = scales([("y",), ("x",)], ""), scales([("x",)], "")
    new.load_state_dict(moved(new.state_dict(), ours, old.state_dict(), theirs))
    rows, valid = torch.randn(100, 2) * 50 + 300, torch.ones(100, dtype=torch.bool)
    new.update(rows, valid)
    fresh.update(rows[:, :1], valid)
    assert new.mean[0] == fresh.mean[0] and new.var[0] == fresh.var[0]
    assert new.mean[1].abs() < 1


def test_a_normaliser_of_before_with_one_count_for_all_columns_loads():
    state = {"mean": torch.ones(2), "var": torch.ones(2), "count": torch.tensor(5.0)}
    normalizer = Normalizer(2)
    normalizer.load_state_dict(state)
    assert normalizer.count.tolist() == [5.0, 5.0] and state["count"].dim() == 0
