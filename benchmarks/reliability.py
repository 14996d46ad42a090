"""Faults by the hundred, put into robokit from outside: what they lose, falsify or leave unsaid.

    python benchmarks/reliability.py                          # the small size, two to four minutes
    python benchmarks/reliability.py medium --rows kills --minutes 90
    python benchmarks/reliability.py medium --row kills --trial 17    # one trial again, nothing recorded

Each trial is seeded by its row and number and written to the record as soon as it is done, so that a second
start goes on where the first one stopped. Printed at the end: what was done of what is asked, and each
failure with the options that repeat it. Exit code 1 if there is any.

Trials run in forks of one process that has imported everything: a start costs milliseconds.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: a fork keeps no threads
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from reliability.record import SIZES, Record, failures, table
from reliability.run import HERE, ROWS, about, run_rows, run_trial, warm


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("size", nargs="?", default="small", choices=SIZES)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[*ROWS], help="only these")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--record", type=Path, help="default: benchmarks/curves/reliability-<size>.jsonl")
    parser.add_argument("--row", choices=ROWS, help="with --trial: one trial, printed, not recorded")
    parser.add_argument("--trial", type=int, default=0)
    options = parser.parse_args()
    warm()
    with tempfile.TemporaryDirectory(prefix="reliability-", ignore_cleanup_errors=True) as name:
        work = Path(name)
        if options.row:
            facts = run_trial(ROWS[options.row], options.trial, options.size, work, set())
            print(json.dumps(facts))
            return 0 if facts["ok"] else 1
        path = options.record or HERE / f"curves/reliability-{options.size}.jsonl"
        record, rows = Record(path, about(options.size)), [ROWS[name] for name in options.rows]
        run_rows(rows, options.size, record, work, options.minutes)
    print(table(rows, record, options.size))
    failed = failures(rows, record)
    print("\n".join(["", *failed]) if failed else "\nno failure")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
