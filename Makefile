# `make demo` and `make test` are the two commands; whichever comes first makes the virtual environment.
# Needs Python >= 3.11 and pip. Another interpreter: `make test PYTHON=python3.12`.
PYTHON ?= python3
VERSIONS ?= python3.11 python3.13
VENV := .venv
BIN := $(VENV)/bin
# one thread each: two workers with two threads each would wait for one another
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help demo test test-slow test-versions check format bench wheel release audit clean
.NOTPARALLEL:

help:
	@echo "make demo       train hopper, export it, evaluate the exported file, film it (about five minutes)"
	@echo "make test       the default tests (five to six minutes on two quiet cores), the ten slowest last; what CI runs"
	@echo "make check      format, lint, types, quick tests (about three minutes)"
	@echo "make test-slow  the rest: learning, the wheel in an empty environment, the second engine"
	@echo "make test-versions  the quick tests from the built wheel, in an empty environment of each Python in VERSIONS"
	@echo "make bench      the measurements behind benchmarks/RESULTS.md"
	@echo "make release    wheel, source archive and two hashed locks, in dist/ (asks the package index for hashes)"
	@echo "make audit      known weaknesses of the locked versions (asks a public database)"
	@echo "make format     let ruff format and mend what it can"

# One stamp for each set of extras: made once, and again when the requirements change.
$(VENV)/%.stamp: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing robokit[$*] into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	@touch $@

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "there is no $(PYTHON) here; name one: make $(MAKECMDGOALS) PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("robokit needs Python >= 3.11, and $(PYTHON) is %d.%d; name another: make $(MAKECMDGOALS) PYTHON=python3.12" % sys.version_info[:2])'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; } # half an environment would look like a whole one

demo: $(VENV)/test.stamp
	$(BIN)/robokit train hopper --num-envs 64 --minibatch 256 --steps 1000000 --lr-schedule adaptive --validations 20
	$(BIN)/robokit evaluate runs/hopper/latest
	$(BIN)/robokit play runs/hopper/latest || echo "(no film here; the rest is whole)"
	$(BIN)/robokit play policies/go2_walk.onnx --command 0.8 0 0 -o runs/go2_walk.mp4 || echo "(no film here; the rest is whole)"
	@echo
	@echo "runs/hopper/latest holds, among others:"
	@echo "  play.mp4             the exported policy at work"
	@echo "  policy.onnx          what a robot runs, with policy.onnx.sha256 beside it"
	@echo "  policy.json          its card: task, commit, sha256, how equal it is to the trained policy"
	@echo "  metrics.jsonl        the learning curve; or: $(BIN)/tensorboard --logdir runs"
	@echo "runs/go2_walk.mp4      the shipped quadruped, told to walk forward at 0.8 m/s"
	@echo "next: docs/tasks.md, to write your own"

test: $(VENV)/test.stamp
	$(PYTEST) -n 2 --dist loadscope --durations=10

test-slow: $(VENV)/test.stamp $(VENV)/gpu.stamp $(VENV)/sb3.stamp $(VENV)/sweep.stamp
	$(PYTEST) -m slow

# PYTHONSAFEPATH: robokit is what the wheel installed, not the folder of this name here.
test-versions: wheel
	@for python in $(VERSIONS); do \
		home=$(VENV)/versions/$${python##*/}; rm -rf $$home; \
		$$python -c "" 2>/dev/null || { echo "$$python: not run (no such interpreter)"; continue; }; \
		$$python -m venv $$home && wheel=$$(ls dist/*.whl) && \
		$$home/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$$wheel[test]" && \
		OMP_NUM_THREADS=1 PYTHONSAFEPATH=1 $$home/bin/python -m pytest -n 2 --dist loadscope -m "not slow and not medium" \
			&& echo "$$python: passed" || { echo "$$python: FAILED"; exit 1; }; \
	done

check: $(VENV)/test.stamp $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(PYTEST) -n 2 --dist loadscope -m "not slow and not medium"

bench: $(VENV)/test.stamp
	$(BIN)/python benchmarks/controller.py policies/*.onnx
	$(BIN)/python benchmarks/controller.py policies/hopper.onnx --minutes 10 --hz 50
	$(BIN)/python benchmarks/env.py
	$(BIN)/python benchmarks/returns.py hopper half_cheetah
	$(BIN)/python benchmarks/offpolicy.py speed

# Built with the pinned setuptools; the wheel from the source archive, so that both are whole.
wheel: $(VENV)/test.stamp
	rm -rf dist build *.egg-info
	$(BIN)/python -c 'from setuptools import build_meta as b; print(b.build_sdist("dist"))'
	mkdir dist/source && tar xzf dist/*.tar.gz -C dist/source --strip-components 1
	cd dist/source && $(CURDIR)/$(BIN)/python -c 'from setuptools import build_meta as b; print(b.build_wheel(".."))'
	rm -rf dist/source

release: wheel
	$(BIN)/python tools/lock.py dist/requirements.lock 'robokit[show]'
	$(BIN)/python tools/lock.py dist/robot.lock numpy onnxruntime
	cd dist && sha256sum *.whl *.tar.gz *.lock > SHA256SUMS

audit: $(VENV)/audit/bin/pip-audit
	@test -f dist/requirements.lock || { echo "there are no locks yet: make release"; exit 1; }
	$(VENV)/audit/bin/pip-audit --strict --disable-pip --require-hashes -r dist/requirements.lock -r dist/robot.lock

$(VENV)/audit/bin/pip-audit: | $(BIN)/python
	@$(BIN)/python -m venv $(VENV)/audit # of its own: what it needs is no part of what is tested
	@$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1

format: $(VENV)/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
