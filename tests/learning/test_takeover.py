"""What a training takes over from its parent, in words."""

from robokit.learning.takeover import KEEPING_LR, Takeover


def test_a_learning_rate_that_may_undo_the_parent_is_noted():
    plain = Takeover(same=True, critics=True, lines=["critics go on"])
    assert plain.at(KEEPING_LR) == plain
    assert plain.at(2e-3).lines[-1] == (
        "note: lr 0.002 is one for a new policy and may undo this one; --lr 0.0003 keeps more"
    )
