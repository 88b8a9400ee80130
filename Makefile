# Needs Python 3.11 or newer and make; `make tools` and `make lint` also npm.
# The project itself is not installed: every command runs from this checkout, with .venv for what it imports.

PYTHON ?= python3
UV ?= .venv/bin/uv

VENV := .venv/bin/python
PACKAGES := $(filter-out tests,$(patsubst %/__init__.py,%,$(wildcard */__init__.py))) environment.py wsgi.py gunicorn.conf.py
TOOLS := mistralai-3 mistralai-2 mistralai-1 mcp-1 fastmcp hatchling node
# Environments that `make bench` measures in: the gateway's, that of its peers, LiteLLM's (half a gigabyte; not for QUICK=1).
BENCH := gateway peers $(if $(QUICK),,litellm)
export SCARF_ANALYTICS := false
# Compiled once, not by each of the many processes that tests start.
unexport PYTHONDONTWRITEBYTECODE
SPECTRAL := tests/tools/node_modules/.bin/spectral

# Hashes are checked and nothing is built here, so no code of a package runs while it is installed. A lock names everything:
# pip has nothing to resolve, and a newer release of what a package asks for with extras (`pydantic[email]`) cannot stop it.
# Python compiles what it imports, which is a part of it.
PIP := -m pip -qq --disable-pip-version-check --no-input
INSTALL := install --no-deps --require-hashes --only-binary :all: --no-compile
# Two makes may begin at once.
ALONE := $(PYTHON) stack/alone.py
# $(call INSTALL_FAST,PYTHON,LOCK): the same by uv, in a tenth of the time (7 s instead of 67 s for requirements-dev.lock); pip
# does it where uv gets nothing, since uv does not read pip's configuration.
FAST := pip install -q --no-deps --require-hashes --only-binary :all:
INSTALL_FAST = .venv/bin/uv $(FAST) --python $1 -r $2 || $(VENV) $(PIP) --python $1 $(INSTALL) -r $2
COMPILE := pip compile -q --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate

.DEFAULT_GOAL := help
# A step that failed is begun anew: .venv without pip, for one, would be taken for one that is there.
.DELETE_ON_ERROR:
.PHONY: help run demo test check lint tools bench soak openapi wheel lock clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: .venv/.runtime ## Run sandbox (when no key is set), REST service and MCP bridge; Ctrl-C stops them
	@$(VENV) -m stack --end-with-parent

demo: .venv/.runtime ## Show two jobs' lives through the REST service: results, cancelling, list
	@$(VENV) -m stack demo --end-with-parent

# Those that measure time run alone, after the others. With exec there is no shell in between, which would not pass a signal on.
test: .venv/.development ## Run all tests; ARGS="tests/stack -k port" runs some
	@exec $(VENV) -m pytest $(or $(ARGS),-n 4 --dist worksteal --durations 15 -m "not exclusive")
	@$(if $(ARGS),,exec $(VENV) -m pytest --durations 5 -m exclusive tests/system)

check: lint test ## Run lint and test

lint: .lint-code .lint-document ## Check style, types, the derived document and the API's description

# Two, so that code is checked while npm installs what checks the document.
.lint-code: .venv/.development
	@$(VENV) -m ruff check .
	@$(VENV) -m ruff format --check .
	@$(VENV) -m mypy --strict $(PACKAGES)
	@$(VENV) -m openapi.derive --check

.lint-document: $(if $(CI),tests/tools/node_modules/.installed)
	@if [ -x $(SPECTRAL) ]; then $(SPECTRAL) lint openapi/openapi.yaml --fail-severity warn; \
	else echo "skipped: Spectral ($(SPECTRAL) is missing; make tools installs it)"; fi

tools: $(TOOLS:%=.tools/%/.installed) tests/tools/node_modules/.installed ## Install what some checks and tests run besides: Spectral, official SDKs, MCP clients, hatchling

bench: .venv/.runtime $(BENCH:%=.tools/%/.installed) ## Measure against the alternatives; QUICK=1: under five minutes, not all of it
	@$(VENV) -m bench $(if $(QUICK),--quick) $(ARGS)

soak: .venv/.runtime ## Measure whether anything grows under mixed load; MINUTES=10
	@$(VENV) -m bench.soak --minutes $(or $(MINUTES),10)

openapi: .venv/.runtime ## Derive openapi/openapi.yaml again
	@$(VENV) -m openapi.derive

wheel: .tools/hatchling/.installed ## Build what pip, pipx and uv install, into dist
	@.tools/hatchling/bin/python -m hatchling build -t wheel

lock: .venv/.uv ## Lock what pyproject.toml asks for; ARGS=--upgrade takes newer versions
	@$(UV) $(COMPILE) $(ARGS) pyproject.toml -o requirements.lock
	@$(UV) $(COMPILE) $(ARGS) pyproject.toml --group dev -c requirements.lock -o requirements-dev.lock
	@$(UV) $(COMPILE) $(ARGS) pyproject.toml --extra otel -c requirements-dev.lock -o requirements-otel.lock
	@for tool in uv $(TOOLS); do \
		$(UV) $(COMPILE) $(ARGS) tests/tools/$$tool.in -o tests/tools/$$tool.lock || exit 1; \
	done
	@for peers in peers litellm; do \
		$(UV) $(COMPILE) $(ARGS) bench/$$peers.in -o bench/$$peers.lock || exit 1; \
	done

clean: ## Remove everything that make has made
	rm -rf .venv .tools .run dist tests/tools/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is newer than its lock file when what the lock file names is installed.

$(VENV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo \
		"Python 3.11 or newer is needed, not $$($(PYTHON) -V 2>&1); if you have one: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Making .venv (only this time) ..."
	@$(ALONE) $(PYTHON) -m venv .venv

.venv/.runtime: requirements.lock | $(VENV)
	@echo "Installing what the gateway needs into .venv (only this time; without further words for a quarter of a minute, on a slow machine for two) ..."
	@$(ALONE) $(VENV) $(PIP) $(INSTALL) -r $<
	@touch $@

.venv/.uv: tests/tools/uv.lock | $(VENV)
	@$(ALONE) $(VENV) $(PIP) $(INSTALL) -r $<
	@touch $@

.venv/.development: requirements-dev.lock | .venv/.uv
	@echo "Installing what the tests need into .venv (only this time) ..."
	@$(ALONE) sh -c "$(call INSTALL_FAST,$(VENV),$<)"
	@touch .venv/.runtime $@

define INSTALL_TOOL
@echo "Installing $* into .tools (only this time) ..."
@$(PYTHON) -m venv --without-pip .tools/$*
@$(call INSTALL_FAST,.tools/$*/bin/python,$<)
@touch $@
endef

.tools/gateway/.installed: .tools/%/.installed: requirements.lock | .venv/.uv
	$(INSTALL_TOOL)

.tools/%/.installed: tests/tools/%.lock | .venv/.uv
	$(INSTALL_TOOL)

.tools/%/.installed: bench/%.lock | .venv/.uv
	$(INSTALL_TOOL)

tests/tools/node_modules/.installed: tests/tools/package-lock.json
	@command -v npm > /dev/null || { echo "npm is needed for these (it comes with Node.js)"; exit 1; }
	@echo "Installing the Node tools into tests/tools/node_modules (only this time) ..."
	@cd tests/tools && npm ci --loglevel=error
	@touch $@
