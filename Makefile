# `make` alone lists the targets. Each makes .venv and installs what it needs, if that is missing.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
QUICK := not (integration or slow or chaos)
export PATH := $(CURDIR)/$(BIN):$(PATH)

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED) ## install into .venv
	@echo "installed. Next: source .venv/bin/activate, then irae --help"

demo: $(INSTALLED) ## shard, train, evaluate and restore on this machine, with a local S3 (under 10 minutes)
	python -m pipeline.demo

quick: $(INSTALLED) ## the tests without Ray, an S3 server, a browser or a command's process, in parallel (90 seconds on 2 cores)
	python -m pytest -n auto --maxprocesses 8 -m "$(QUICK)"

test: quick ## all tests but campaigns and clusters (under 15 minutes on 2 cores)
	python -m pytest -m "not chaos and not ($(QUICK))"

chaos: $(INSTALLED) ## the campaigns of kills, faults and damage in full length (about 20 minutes)
	python -m pytest -m chaos --timeout 3600

cluster-test: $(INSTALLED) ## `ray up` for real, on hosts made of namespaces (root, Linux; about 10 minutes; says why where it cannot)
	python -m tests.cluster

lint: $(INSTALLED) ## style, types, words and docs
	ruff check .
	ruff format --check .
	mypy
	python docs/check_words.py
	$(MAKE) --no-print-directory docs

docs: $(INSTALLED) ## the pages and the API reference in build/docs; warnings are errors
	python -m sphinx -W --keep-going -q -b html docs build/docs

help-texts: $(INSTALLED) ## write the help of every command into docs/help
	python docs/make_help.py

bench: $(INSTALLED) ## every benchmark; each prints one JSON object last
	@for file in benchmarks/[a-z]*.py; do name=$$(basename $$file .py); echo "== $$name"; python -m benchmarks.$$name || exit 1; done

clean: ## remove .venv, caches, the local S3 and the demo's results (data/ and runs/ stay)
	rm -rf .venv .local_s3 runs/demo .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) infra/check_machine.py
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; echo "error: $(PYTHON) cannot make virtual environments; install its venv module (Debian, Ubuntu: python3-venv)." >&2; exit 2; }
	@echo "installing into .venv (once; a few minutes) ..."
	@# torch by its exact version first: it is the largest part, and nothing after it may change it.
	python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)" -c constraints.txt
	python -m pip install --quiet --disable-pip-version-check -e '.[all]' -c constraints.txt
	@touch $@

.PHONY: help install docs help-texts demo quick test chaos cluster-test lint bench clean
