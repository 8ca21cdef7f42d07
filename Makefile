# The two commands: `make demo` and `make test`. Both install what is missing.
# `make demo-textworld`: the same on games of TextWorld, which it makes first.
# `make demo-gemma` and `make test-all` fetch a pretrained model first (ACCEPT=1 says yes to its licence beforehand); the latter
# leaves out no test.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
REAL   := gemma-3-270m

.PHONY: demo demo-gemma demo-textworld docs lint test test-all install

# By the interpreter, not by the scripts beside it: these name it by a path, which a move or an odd character breaks.
demo: install
	$(BIN)/python -m agentloop demo $(if $(NEW),--new)

# With a CUDA card in an environment of its own, in the versions that all GPU figures are of.
CUDA  := $(shell nvidia-smi -L >/dev/null 2>&1 && echo .venv-cuda)
GEMMA := $(or $(CUDA),$(VENV))

demo-gemma: $(GEMMA)/.installed
	$(GEMMA)/bin/python -m agentloop demo --model $(REAL) $(if $(NEW),--new) $(if $(ACCEPT),--accept)

# Games that somebody else's program makes: jericho, which runs them, is compiled here and needs a C compiler and make.
demo-textworld: install
	$(BIN)/python -c "import textworld" 2>/dev/null || $(BIN)/python -m pip install --quiet --no-deps -r requirements/textworld.txt
	$(BIN)/python -m agentloop demo --model tiny-textworld $(if $(NEW),--new)

.venv-cuda/.installed: requirements/cuda.txt pyproject.toml
	test -x .venv-cuda/bin/python || $(PYTHON) -m venv .venv-cuda || python3 -m venv .venv-cuda
	.venv-cuda/bin/python -m pip install --quiet --editable ".[cuda,gguf]" --constraint requirements/cuda.txt
	pwd -P > $@

# Every setting, and the API, as pages in build/docs.
docs: install
	$(BIN)/python docs/reference/build.py

# Style, which room may import which, types.
lint: install
	$(BIN)/python -m ruff check --quiet .
	$(BIN)/python -m ruff format --quiet --check .
	$(BIN)/python -c "from importlinter.cli import lint_imports_command as lint; lint()"
	$(BIN)/python -m mypy

# Two processes: much of the time goes into waiting for servers to start.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests --numprocesses 2 --dist loadscope --no-loadscope-reorder

# On pretrained weights too where models/$(REAL) is there; without what takes minutes to show more of the same.
test: install
	$(PYTEST) -m "not slow"

test-all: install
	test -f models/$(REAL)/config.json || $(BIN)/python -m agentloop fetch $(REAL) $(if $(ACCEPT),--accept)
	$(PYTEST) --real

install: $(VENV)/.installed

# It says where it was installed; in a checkout that was moved, renamed or copied since, everything is seen to again.
ifneq ($(shell cat $(VENV)/.installed 2>/dev/null),$(CURDIR))
.PHONY: $(VENV)/.installed
endif

# torch first: its CPU build is not where the other packages are, and uv knows where that is.
$(VENV)/.installed: requirements/cpu.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m venv --without-pip $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null \
	  || $(BIN)/python -m pip install --quiet --no-deps "torch==2.13.0+cpu" 2>/dev/null \
	  || { $(BIN)/python -m pip install --quiet uv \
	    && $(BIN)/python -m uv pip install --python $(BIN)/python --torch-backend cpu --compile-bytecode --no-deps torch==2.13.0; }
	$(BIN)/python -m pip install --quiet --no-deps -r requirements/cpu.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python requirements/scripts.py
	$(BIN)/python requirements/libnuma.py
	pwd -P > $@
