# make run: from a fresh clone to results.   make test: every test.   make help: the rest.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# make run CORPUS=text/*.txt.xz OUT=runs/mine JOBS=4 ARGS='--seed 1'
RUN := $(if $(CORPUS),--corpus '$(CORPUS)') $(if $(OUT),--out '$(OUT)') $(if $(JOBS),--jobs $(JOBS)) $(ARGS)

.PHONY: help setup run test bench docs lab audit lowest clean
help:            ## list these targets
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/'

setup: $(READY)  ## make the virtual environment
$(READY): settings.ini setup.py pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "Python 3.11 or newer is needed, and $(PYTHON) is %d.%d: make PYTHON=python3.12, for example." % v[:2])'
	@echo "Installing into $(VENV): two to four minutes, 2.5 GB"
	@$(PYTHON) -m venv $(VENV) || { echo "The virtual environment could not be made: on Debian and Ubuntu, apt install python3-venv."; exit 1; }
	@$(BIN)/python -m pip install -qq -c requirements.lock -e '.[dev]'
	@touch $@

run: $(READY)    ## retrofit, evaluate, report (CORPUS=path for your own text); goes on where it was stopped
	@$(BIN)/ff-nbdev run quick $(RUN)

test: $(READY)   ## every test: the notebooks, the library, the site, JupyterLab
	@$(BIN)/python -m pytest tests $(ARGS)

bench: $(READY)  ## measure speed and memory beside their peers, under ten minutes, and renew the pages (ARGS='-p run_minutes 6')
	@$(BIN)/ff-nbdev notebook nbs/benchmarks/speed.ipynb runs/bench/speed.ipynb --force -p measure full -p out results/benchmarks $(ARGS)
	@$(BIN)/ff-nbdev notebook nbs/benchmarks/memory.ipynb runs/bench/memory.ipynb --force -p measure full -p out results/benchmarks
	@IN_TEST=1 $(BIN)/jupyter nbconvert --log-level ERROR --to notebook --execute --inplace nbs/benchmarks/speed.ipynb nbs/benchmarks/memory.ipynb
	@$(BIN)/nbdev-clean --fname nbs/benchmarks

docs: $(READY)   ## build README.md and the site in _docs
	@$(BIN)/ff-nbdev docs

lab: $(READY)    ## open JupyterLab on the notebooks
	@$(BIN)/jupyter lab nbs

audit: $(READY)  ## known vulnerabilities of the versions in requirements.lock (asks PyPI, and fails where it cannot)
	@$(BIN)/python -m pip_audit --strict --disable-pip --no-deps -r requirements.lock

lowest:          ## the tests of the library on the oldest versions that settings.ini admits
	@PYTHON=$(PYTHON) .ci/lowest

clean:           ## take away what can be built again (not runs/, not .venv)
	rm -rf _proc _docs build dist .pytest_cache .hypothesis .ruff_cache
