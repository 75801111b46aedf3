# make demo   train three recognizers on an invented corpus, on this machine (about eight minutes after the installation)
# make test   run the tests
# make bench  measure speed and memory against the peers that are installed: benchmarks/RESULTS.md
# make lint   ruff and, where it is installed, shellcheck
# make clean  remove the environment and what the mini recipe made

PYTHON ?= python3
RECIPE := egs/mini/asr
VENV ?= .venv

# Constraints reach the build environment too, under the names that older and newer pip read.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test bench lint clean

demo: $(VENV)/installed-mini
	cd $(RECIPE) && PATH="$(abspath $(VENV))/bin:$$PATH" && ./run.sh --stop-stage 1 && ./compare.sh

test: $(VENV)/installed-dev
	$(VENV)/bin/python -m pytest

# PEER_PATH=DIR make bench: peers that pip does not know are found in DIR.
bench: $(VENV)/installed-dev
	$(VENV)/bin/python benchmarks/run_all.py

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	@command -v shellcheck >/dev/null || echo "shellcheck is not installed: the shell files are NOT checked"
	@! command -v shellcheck >/dev/null || shellcheck .ci/run utils/*.sh tools/*.sh egs/*/*/*.sh

clean:
	rm -rf $(VENV) build $(RECIPE)/data $(RECIPE)/exp $(RECIPE)/log $(RECIPE)/downloads

# A file that appears only after pip has succeeded: an interrupted installation is taken up again.
$(VENV)/installed-mini: $(VENV)/bin/python pyproject.toml constraints.txt
	$(VENV)/bin/python -m pip install -c constraints.txt -e '.[mini]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(VENV)/bin/python -m pip install -c constraints.txt -e '.[mini,dev]'
	@touch $@ $(VENV)/installed-mini

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not installed; asrtts needs Python 3.11 or newer"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: asrtts needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1); name another: make demo PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo "make: $(PYTHON) cannot make environments; install its venv package (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
