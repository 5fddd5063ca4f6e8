# Two commands set everything up: `make compare` and `make test`.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help compare bench performance gpu wheel sanitize fuzz portable no-compiler test test-all test-levels libraries \
        examples docs pages release mutants matrix lint clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

compare: $(READY) ## what normalizers do: one net on the same data, in mini-batches of all kinds and of one kind each
	$(BIN)/normwise compare --data mixed-digits --norms batch,renorm,group,nf --batch-sizes 16,64 --out results/mixed
	$(BIN)/normwise compare --data mixed-digits --batches-by domain --norms batch,bank,renorm,group,nf \
		--batch-sizes 16,64 --out results/by-domain

bench: $(READY) ## time every layer against torch's own, and a training step
	$(BIN)/normwise bench
	OMP_NUM_THREADS=1 $(BIN)/normwise bench overhead
	$(BIN)/normwise bench step

performance: $(READY) ## measure what docs/performance.md says of a CPU, in two instruction sets and regimes of memory
	$(BIN)/python docs/measure_performance.py

gpu: $(READY) ## the kernels in Triton on a GPU: tests, then the bench
	$(BIN)/python tools/measure_gpu.py

wheel: ## the platform wheel with compiled kernels and the pure one, tried in a clean environment
	$(PYTHON) tools/build_wheel.py

release: ## what a release consists of, built and tried: source distribution and wheels; uploads nothing
	$(PYTHON) tools/release.py

sanitize: $(READY) ## the C++ kernels under the compiler's sanitizers
	$(BIN)/python -m pytest tests/backends/test_cpu_sanitized.py -rs

MINUTES ?= 2
fuzz: $(READY) ## calls with anything in them on kernels with sanitizers, for MINUTES=2
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

portable: ## the kernels' C interface with clang, without OpenMP, and emulated on aarch64
	$(PYTHON) tools/portable.py

no-compiler: $(READY) ## install, tests and compare on a machine without a compiler
	$(BIN)/python tools/without_compiler.py

# One process per core with one thread each: the tests are many and small. Each begins with a part of the files in one
# piece, so that what a file prepares is prepared once. Bytecode is kept whatever the environment says: some hundred
# processes import the package.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

test: $(READY) ## the test suite
	$(PYTEST) -m "not slow"

test-all: $(READY) ## the test suite with the slow tests
	$(PYTEST)

# Where numbers are computed. A level that this processor cannot run is refused, and fails.
NUMBERS := tests/core tests/backends tests/operations tests/layers tests/weights tests/conformance tests/functional
LEVELS ?= x86-64 x86-64-v3
test-levels: $(READY) ## numbers as on other processors: kernels for LEVELS, ATen's instruction sets, two threads
	for level in $(LEVELS); do NORMWISE_MARCH=$$level $(PYTEST) -m "not slow" $(NUMBERS) || exit 1; done
	for set in default avx2; do ATEN_CPU_CAPABILITY=$$set $(PYTEST) -m "not slow" $(NUMBERS) || exit 1; done
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest -m "not slow" $(NUMBERS)

LIBRARIES := $(VENV)/.libraries
$(LIBRARIES): $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[libraries]'
	touch $@

libraries: $(LIBRARIES) ## the tests that need timm, torchvision, transformers, Lightning, torchao, Opacus, ..., which it installs
	$(PYTEST) -m "not slow" tests/nets tests/signal tests/comparison/contestants/test_models.py tests/comparison/data/test_task_data.py \
		tests/comparison/experiments/test_examples_of_compare.py tests/comparison/sweeping/test_on_ray.py \
		tests/layers/test_published_norms.py tests/integrations/test_libraries.py tests/integrations/test_real_models.py

examples: $(READY) ## every example of README and docs that runs in bounded time
	$(PYTEST) tests/test_examples.py

SITE := $(VENV)/.docs
$(SITE): $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	touch $@

docs: $(SITE) ## the site in docs/_build/html, without a network; a warning or a dead link is an error
	$(BIN)/python docs/make_interactive.py
	$(BIN)/python -m sphinx -W --keep-going -E -q -b html docs docs/_build/html
	$(BIN)/python docs/check_site.py docs/_build/html

pages: $(READY) ## write the pages that are made from the package: layers, choose, coming from, the Japanese gallery
	for maker in normalizers choose coming_from gallery_ja; do $(BIN)/python docs/make_$$maker.py || exit 1; done

mutants: $(READY) ## break one behaviour at a time: which of the nearest tests notices?
	$(BIN)/python tools/mutants.py

matrix: $(READY) ## prove the conformance matrix and the page of tools, and write docs/conformance.md and docs/tools.md
	OMP_NUM_THREADS=1 NORMWISE_TUNING=0 $(BIN)/python -m tests.conformance.write
	OMP_NUM_THREADS=1 NORMWISE_TUNING=0 $(BIN)/python -m tests.conformance.write_tools

lint: $(READY) ## format check, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache
