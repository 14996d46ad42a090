"""Seeds: blocks that no two purposes or processes share."""

import pytest

from robokit.errors import OptionError
from robokit.seeds import BLOCK, MOST_PROCESSES, seed


def test_no_two_purposes_or_processes_share_a_seed():
    blocks = [seed("training", process=p) for p in range(MOST_PROCESSES)]
    blocks += [seed("evaluation"), seed("validation")]
    assert all(first % BLOCK == 0 for first in blocks)  # and a number stays within its block
    assert len(set(blocks)) == len(blocks)
    assert max(blocks) + BLOCK <= 2**32  # torch takes 32 bits of a seed on the CPU


def test_recorded_trainings_and_evaluations_keep_their_seeds():
    assert (seed("training", 3), seed("evaluation", 3), seed("validation")) == (3, 1_000_003, 10**9)


@pytest.mark.parametrize("number", [-1, BLOCK])
def test_a_number_of_another_block_is_refused(number: int):
    with pytest.raises(OptionError, match=f"seed must be from 0 to 999999, got {number}"):
        seed("evaluation", number)


def test_more_processes_than_blocks_are_refused():
    with pytest.raises(OptionError, match="at most 999 processes, got number 999"):
        seed("training", 0, process=999)
