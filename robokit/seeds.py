"""Seeds: a block of a million numbers for each purpose, so that no two purposes share a random draw.

seed("training", 3)             # simulations and networks of `robokit train --seed 3`
seed("training", 3, process=1)  # the same in the second of several processes
seed("evaluation", 3)           # episodes of `robokit evaluate --seed 3`
"""

from typing import Literal

from robokit.errors import OptionError

Purpose = Literal["training", "evaluation", "validation", "states", "planning"]
BLOCK = 1_000_000  # seeds in a block
FIRST: dict[Purpose, int] = {"training": 0, "evaluation": 1, "validation": 1000}  # block
FIRST |= {"states": 1001, "planning": 1002}
MOST_PROCESSES = 999  # per training; one block each: the 1000 before validation's, without evaluation's


def seed(purpose: Purpose, number: int = 0, process: int = 0) -> int:
    """`number`, the user's seed, plus BLOCK times the number of the purpose's block.

    process: from 0; each process of a training has its own block, other purposes ignore the process.
    Raises OptionError for a number outside [0, BLOCK) or a process outside [0, MOST_PROCESSES).
    """
    if not 0 <= number < BLOCK:
        raise OptionError(f"seed must be from 0 to {BLOCK - 1}, got {number}")
    if not 0 <= process < MOST_PROCESSES:
        raise OptionError(f"a training is shared by at most {MOST_PROCESSES} processes, got number {process}")
    block = process + (process > 0) if purpose == "training" else FIRST[purpose]  # 0, 2, 3, ...
    return block * BLOCK + number
