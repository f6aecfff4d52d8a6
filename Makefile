# `make demo` and `make test` do all of the set-up by themselves.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Apart from the other, as a peer pins an older OpenCV, and two do not go into one environment.
BENCH := .venv-bench
BENCH_INSTALLED := $(BENCH)/.installed
# What the examples need, without the tools of tests and style.
DEMO_INSTALLED := $(VENV)/.installed-examples

# OpenMP threads that spin while they wait can slow training on a few cores down by 5 to 15 times.
export GOMP_SPINCOUNT := 5000

.PHONY: help demo bench gpu docs notebook lesion-focus test test-benchmarks test-slow test-integrations lint wheel \
	clean
.DELETE_ON_ERROR:

help:  ## show this help
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/'

$(DEMO_INSTALLED): pyproject.toml spmix_aug/__init__.py  # the latter for its version
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "The examples need Python 3.11 or newer, the package alone 3.10;" \
		"name one: make PYTHON=python3.12"; exit 1; }
	@echo "Installing into $(VENV): about 6 GB where the index has torch with CUDA. For torch without it:" \
		"PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e ".[examples]"
	touch $@

$(INSTALLED): $(DEMO_INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check -e ".[examples,test,dev]"
	touch $@

$(BENCH_INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --disable-pip-version-check -e ".[bench]"
	$(BENCH)/bin/python -m pip uninstall --yes opencv-contrib-python  # the older one, pinned
	$(BENCH)/bin/python -m pip install --disable-pip-version-check --force-reinstall --no-deps \
		"opencv-contrib-python-headless>=5"
	touch $@

demo: $(DEMO_INSTALLED)  ## show what guided mixing is for: synthetic lesions, twelve runs, a report
	$(BIN)/python -m examples.isic2018.demo --out demo

bench: $(BENCH_INSTALLED)  ## measure throughput against the peers: table and chart; no other load
	$(BENCH)/bin/python -m benchmarks.throughput --out benchmarks/results/throughput $(ARGS)

# On a bare machine without network, so by the Python that has torch there, in no environment of ours.
gpu:  ## test and measure on a GPU; WHEELS=folder of what its Python lacks; OUT=path, no suffix
	test -z "$(WHEELS)" || $(PYTHON) -m pip install --disable-pip-version-check \
		--no-index --find-links "$(WHEELS)" "$(WHEELS)"/*.whl
	$(PYTHON) -m benchmarks.gpu --out $(or $(OUT),benchmarks/results/gpu) $(ARGS)

lesion-focus: $(INSTALLED)  ## measure how well saliency finds lesions; give DATA=folder
	@test -n "$(DATA)" || { echo "name the images: make lesion-focus DATA=folder"; exit 1; }
	for epochs in 1 2 4; do $(BIN)/python -m examples.isic2018.train --data $(DATA) --hold-out 0 --epochs $$epochs \
		--image-size 112 --mix none --out runs/lesion_focus/epochs_$$epochs || exit 1; done
	$(BIN)/python -m benchmarks.lesion_focus --data $(DATA) --out benchmarks/results/lesion_focus_fold0 \
		--runs runs/lesion_focus/epochs_1 runs/lesion_focus/epochs_2 runs/lesion_focus/epochs_4

docs: $(INSTALLED)  ## build the site into docs/_build
	$(BIN)/python -m pip install --disable-pip-version-check -q -e ".[docs]"
	$(BIN)/python -m sphinx -q -E -W --keep-going docs docs/_build

notebook: $(INSTALLED)  ## run the first look and keep what it shows
	$(BIN)/python -m pip install --disable-pip-version-check -q -e ".[docs]"
	$(BIN)/python docs/notebook.py docs/notebooks/first_look.ipynb

# Two processes of one thread each are faster than one of two.
PARALLEL = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test: $(INSTALLED)  ## run the tests of the library and the examples, without the slow ones
	$(PARALLEL) --ignore tests/benchmarks -m "not slow and not integrations" $(ARGS)

test-benchmarks: $(INSTALLED)  ## run the tests of the benchmarks, without the slow ones
	$(PARALLEL) tests/benchmarks -m "not slow" $(ARGS)

test-slow: $(INSTALLED)  ## run the slow tests of all
	$(BIN)/python -m pytest -m slow $(ARGS)

test-integrations: $(INSTALLED)  ## install the frameworks of examples/integrations, run its tests
	$(BIN)/python -m pip install --disable-pip-version-check -e ".[integrations]"
	$(BIN)/python -m pytest tests/examples/test_integrations.py $(ARGS)

lint: $(INSTALLED)  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: $(INSTALLED)  ## build wheel and sdist into dist/
	$(BIN)/python -m build

clean:  ## remove what was installed, built and drawn
	rm -rf $(VENV) $(BENCH) build dist demo docs/_build
