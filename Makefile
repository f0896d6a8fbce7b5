# `make` lists the targets. Variables, on the command line or in the environment:
#   PYTHON     the interpreter the virtual environment is made from, 3.10 or newer
#   ARGS       arguments of the command: make train ARGS="agent=drqv2 seed=2"
#   MUJOCO_GL  how MuJoCo draws: egl (default on Linux), osmesa or glfw
# On Linux, pip brings the CUDA build of torch. Without a GPU the CPU build saves gigabytes:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make setup
PYTHON ?= python3
ifeq ($(shell uname -s),Linux)
export MUJOCO_GL ?= egl
endif

RUN := .venv/bin/python
PIP := $(RUN) -m pip install -qq --disable-pip-version-check
# Pinned in a separate file: torch from another index is a different build, which needs none of the other packages.
CUDA := torch==|nvidia-|cuda-|triton==
INSTALLED := .venv/.installed
DRAWS := .venv/.draws-$(MUJOCO_GL)

.DEFAULT_GOAL := help
.PHONY: help setup train theory test test-slow bench fuzz kills docs lint format type lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(DRAWS) ## make .venv, install everything, check that MuJoCo can draw (the targets below do it for you)

train: $(DRAWS) ## learn a task from pixels on this machine, or resume the run that stopped; ARGS="seed=2" overrides
	@preset=$$($(RUN) -c 'import torch; print("paper" if torch.cuda.is_available() else "cpu")') && \
	  $(RUN) -m rlrep.experiments.train preset=$$preset resume=true $(ARGS)

theory: $(DRAWS) ## which methods survive which noise: a tour and its report; ARGS="core phase --seeds 5" for more
	@$(RUN) -m rlrep.experiments.video_theory $(ARGS)

test: $(DRAWS) ## run all tests except the slow ones
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --maxprocesses 4 $(ARGS)

test-slow: $(DRAWS) ## run the slow tests
	@$(RUN) -m pytest -m slow $(ARGS)

bench: $(DRAWS) ## time everything on this machine, about 15 minutes; ARGS="update agent=taco batch=256" times one thing
	@$(RUN) -m rlrep.experiments.benchmark $(ARGS)

fuzz: $(INSTALLED) ## open 3,000 damaged and hostile files, a few minutes; ARGS="--seed 1 --count 10000 --kind minari"
	@$(RUN) -m tests.fuzz $(ARGS)

kills: $(DRAWS) ## kill and resume 100 tiny runs at random moments, about 20 minutes; ARGS="--seed 1 --count 8 4 4 4"
	@$(RUN) -m tests.kills $(ARGS)

docs: $(INSTALLED) ## make the pages and a reference of the public interface, as HTML in build/docs
	@$(RUN) -m docs.make $(ARGS)

lint: $(INSTALLED) ## check style and formatting
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .

format: $(INSTALLED) ## format, and fix what can be fixed
	@$(RUN) -m ruff check --fix-only .
	@$(RUN) -m ruff format .

type: $(INSTALLED) ## check types
	@$(RUN) -m mypy

clean: ## remove caches and builds; .venv and runs stay
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -path ./.venv -prune -o -type d -name __pycache__ -exec rm -rf {} +

lock: ## pin the versions and hashes that pyproject.toml needs; ARGS=--upgrade for the newest versions
	@$(PYTHON) -m venv build/lock
	@build/lock/bin/pip install -qq --disable-pip-version-check uv
	@cat constraints.txt constraints-torch.txt > build/lock/all.txt
	@build/lock/bin/uv pip compile -q pyproject.toml --extra all --extra dev --universal --python-version 3.10 \
	  --generate-hashes --no-annotate --no-header --output-file build/lock/all.txt $(ARGS)
	@echo '# Made by `make lock`. Every package but torch: versions, and the hashes of all their files.' > constraints.txt
	@echo '# Made by `make lock`. The build of torch on PyPI, and what it needs for CUDA.' > constraints-torch.txt
	@awk '/^[A-Za-z]/ { file = /^($(CUDA))/ ? "constraints-torch.txt" : "constraints.txt" } { print >> file }' \
	  build/lock/all.txt

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo 'rlrep needs Python 3.10 or newer, which $(PYTHON) is not: make setup PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo '$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: sudo apt install python3-venv' >&2; exit 1; }
	@echo 'Making a virtual environment in .venv'
	@$(PYTHON) -m venv .venv

$(INSTALLED): pyproject.toml constraints.txt constraints-torch.txt | $(RUN)
	@echo 'Installing rlrep and its extras into .venv (a few minutes the first time)'
	@sed -n '/^setuptools==/,/[^\\]$$/p' constraints.txt > .venv/setuptools.txt
	@$(PIP) --require-hashes --no-deps --requirement .venv/setuptools.txt
	@$(PIP) --require-hashes --no-deps --no-build-isolation --requirement constraints.txt
	@echo 'Installing torch (a large download the first time)'
	@if $(RUN) -m pip config list | grep -E 'index-url|find-links' > /dev/null; then \
	  $(PIP) "$$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' constraints-torch.txt)"; \
	else $(PIP) --require-hashes --no-deps --requirement constraints-torch.txt; fi
	@$(PIP) --no-deps --no-build-isolation --editable .
	@# Python asks pip's finder last: in the folder above the clone, `rlrep` would be the clone itself, an empty package.
	@mkdir -p .venv/clone && ln -sfn $(CURDIR)/rlrep .venv/clone/rlrep
	@echo $(CURDIR)/.venv/clone > "$$($(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/rlrep_clone.pth"
	@$(RUN) -m pip check --disable-pip-version-check
	@touch $@

$(DRAWS): $(INSTALLED)
	@echo 'Checking that MuJoCo can draw with MUJOCO_GL=$(MUJOCO_GL)'
	@$(RUN) -m rlrep.envs.check
	@touch $@
