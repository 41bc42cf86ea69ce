# Everything is run from the checkout, with a toolchain of its own in .venv. `make help` lists the targets.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INVENTORY ?= inventories/lab
PLAYBOOK = $(BIN)/ansible-playbook -i $(INVENTORY)

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-14s %s\n", $$1, $$2}'

# The stamp is newer than the requirements when the toolchain is complete; an interrupted installation starts over.
$(VENV)/.complete: requirements.txt
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { apt-get -q update && apt-get -qy --no-install-recommends install python3-venv; }
	@echo "Installing the toolchain into $(VENV) (about a minute) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.txt
	@collections=$$($(BIN)/python -c 'import ansible_collections as c; print(list(c.__path__)[0])') && \
	  mkdir -p "$$collections/truthgraph" && ln -sfn "$(CURDIR)" "$$collections/truthgraph/platform"
	@touch $@

.PHONY: setup
setup: $(VENV)/.complete ## Install the pinned toolchain into .venv

.PHONY: requirements
requirements: setup ## Write requirements.txt anew from requirements.in
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --custom-compile-command 'make requirements' requirements.in --output-file requirements.txt
