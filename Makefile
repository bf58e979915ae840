# d2_multitask: `make` lists the targets. All of them may be interrupted and repeated.

# The environment that everything runs in. PYTHON=... chooses the Python that makes it, else the
# first of the candidates that runs, is 3.10-3.12 and can make environments.
VENV := .venv
CANDIDATES := python3.11 python3.10 python3.12 python3
PROBE := import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
# For tools/install.py, e.g. INSTALL_ARGS='--detectron2 source'
INSTALL_ARGS :=
# For the demo, e.g. DEMO_ARGS='SOLVER.MAX_ITER 100'
DEMO_ARGS :=
# For the benchmark, e.g. BENCHMARK_ARGS='--threads 2 --only fast'
BENCHMARK_ARGS :=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install people demo demo-clean benchmark test test-slow test-nightly test-gpu lint format clean

help: ## list these targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

install: $(VENV)/.installed ## make .venv and install PyTorch, Detectron2, this project into it

# The stamp is written last, so the next make takes up an interrupted installation again. An
# interrupted `venv` leaves a Python without pip; running it again completes it.
$(VENV)/.installed: tools/install.py setup.py
	@if ! $(VENV)/bin/python -m pip --version >/dev/null 2>&1; then \
		python=; \
		for candidate in $(or $(PYTHON),$(CANDIDATES)); do \
			if $$candidate -c '$(PROBE)' 2>/dev/null; then python=$$candidate; break; fi; \
		done; \
		if [ -z "$$python" ]; then \
			echo "No Python 3.10, 3.11 or 3.12 with venv among: $(or $(PYTHON),$(CANDIDATES))."; \
			echo "Install one (on Debian and Ubuntu with the package python3-venv) or name it:"; \
			echo "    make install PYTHON=/path/to/python3.11"; \
			exit 1; \
		fi; \
		echo "Making $(VENV) with $$($$python --version)"; \
		$$python -m venv $(VENV); \
	fi
	@$(VENV)/bin/python tools/install.py $(INSTALL_ARGS)
	@touch $@

ifneq ($(IMAGES),)
ifneq ($(shell test -e "$(IMAGES)" && echo there),there)
$(error IMAGES: found no $(IMAGES), expected a folder of photographs, or a photograph)
endif
endif

people: install ## find people in photographs, IMAGES=folder (output/people)
	@$(VENV)/bin/python tools/people.py --input "$(or $(IMAGES),docs/pictures/photographs)" \
		--output output/people --contact-sheet

demo: install ## draw data, train and evaluate the small network, write pictures (output/demo)
	@$(VENV)/bin/python tools/demo.py $(DEMO_ARGS)

demo-clean: ## forget the demo's training and pictures, to start it anew
	rm -rf output/demo

benchmark: install ## measure every ratio of speed and size beside its target (output/benchmark)
	@$(VENV)/bin/python tools/benchmark.py ratios $(BENCHMARK_ARGS)

test: install ## the tests, without the slow ones
	$(VENV)/bin/python -m pytest -m "not slow" -n auto --maxprocesses 8 --dist loadfile

test-slow: install ## the slow tests
	$(VENV)/bin/python -m pytest -m slow

test-nightly: install ## all tests, and 10,000 damaged files in each of the fuzz tests
	D2_MULTITASK_MUTANTS=10000 $(VENV)/bin/python -m pytest

test-gpu: install ## what needs a CUDA GPU; everything else runs without one
	$(VENV)/bin/python -m pytest tests/gpu

lint: install ## check style and formatting
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: install ## repair style and formatting as far as that can be done by machine
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean: ## remove build artefacts and caches; .venv, output and datasets stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find d2_multitask tools datasets tests -name __pycache__ -type d -prune -exec rm -rf {} +
