"""Row `resume`: a training that was cut and gone on with has the bits of one that was not."""

import json
from dataclasses import replace
from pathlib import Path

from reliability import jobs, kills
from reliability.child import forked
from reliability.jobs import EACH, ITERATIONS, JOBS, Job
from reliability.record import Facts, Place, Row, bad, judged

CUTS = 3
MORE = (
    *(Job("ppo", "memoryless", True, {"lr_schedule": "adaptive"}), Job("ppo", more={"objective": "penalty"})),
    *(Job("ppo", "gru", True, {"critic_belief": "gru"}), Job("ppo", more={"num_envs": 4})),
    *(Job("sac", more={"normalize_obs": True}), Job("sac", more={"n_step": 3, "critics": 3})),
    *(Job("sac", "lstm", True), Job("td3", more={"layer_norm": True}), Job("td3", more={"utd": 2.0})),
)
COMPILED = tuple(replace(job, more={**job.more, "compile": True}) for job in (JOBS[0], JOBS[1], JOBS[17]))
ALL = (*JOBS, *MORE, *COMPILED)  # 30
FEW = (JOBS[6], JOBS[4], JOBS[17])


def jobs_of(size: str) -> tuple[Job, ...]:
    return FEW if size == "small" else ALL


def trial(place: Place) -> Facts:
    """One configuration, uncut, and cut at 1 to CUTS iterations: one process each."""
    here = jobs_of(place.size)
    job, cut = here[place.number // CUTS % len(here)], place.number % CUTS + 1
    what = f"{job.name}, cut at {cut} of {ITERATIONS} iterations"
    kept = place.home / job.name / "uncut.json"
    if not kept.exists():
        kills.uncut(place.home, job)
    whole, steps = json.loads(kept.read_text())["state"], _each(job) * cut
    jobs.lay(place.folder)
    first = forked(lambda: jobs.go_on(job, steps, save_steps=1e9), place.folder, 900.0)
    rest = forked(lambda: jobs.state(jobs.go_on(job)), place.folder, 900.0)
    if first.code or rest.code:
        return bad(what, first.text if first.code else rest.text)
    at = [line["steps"] for line in rest.value["metrics"]]
    faults = [found] if (found := jobs.differ(whole, rest.value)) else []
    return judged(what, faults + ([] if steps in at else [f"never at step {steps}: {at}"]))


def _each(job: Job) -> int:
    """Environment steps of an iteration."""
    return job.more.get("num_envs", 2) * 8 if job.algo == "ppo" else EACH


def prepare(home: Path, size: str) -> None:
    """Uncut trainings are made by the first trial that needs them."""


ROW = Row(
    "resume",
    "30 configurations x 3 cuts, eager and compiled: equal to the bit",
    {"small": 3, "medium": CUTS * len(ALL), "night": CUTS * len(ALL)},
    trial,
    seconds=3000.0,
    prepare=prepare,
)
