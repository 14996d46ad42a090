"""One algorithm, one file, readable beside its paper: `Config` and `Learner` in each."""
