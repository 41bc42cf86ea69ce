# Everything is run from the checkout, with a toolchain of its own in .venv. `make help` lists the targets.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
REQUIREMENTS := requirements.txt
BIN := $(VENV)/bin
INVENTORY ?= inventories/lab
SCENARIOS ?= default
PLAYBOOK = $(BIN)/ansible-playbook -i $(INVENTORY)
scenarios_of = $(notdir $(wildcard molecule/$(1) molecule/$(1)-*))
ROLE_SCENARIOS = $(call scenarios_of,$(ROLE))

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-17s %s\n", $$1, $$2}'

.PHONY: deploy
deploy: lab ## Set up the lab and deploy TruthGraph to it
	$(PLAYBOOK) playbooks/deploy.yml

.PHONY: test
# Not from the environment, where something else may be called so.
ifeq ($(origin ROLE),command line)
test: role
else
test: setup ## Lint, unit tests, and Molecule with testinfra on the lab; with ROLE=api what there is of one role
	$(MAKE) lint
	$(MAKE) unit
	$(MAKE) molecule
endif

# For the loop of whoever works on one role. Its scenarios of Molecule carry its name: molecule/api, molecule/api-...
.PHONY: role
role: setup
	@[ -f 'roles/$(ROLE)/meta/main.yml' ] || { echo 'There is no role $(ROLE).'; exit 2; }
	$(BIN)/yamllint --strict roles/$(ROLE)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/ansible-lint --offline roles/$(ROLE)
	$(BIN)/pytest tests/unit --role $(ROLE)
	$(if $(ROLE_SCENARIOS),$(MAKE) molecule SCENARIOS='$(ROLE_SCENARIOS)')

.PHONY: test-full
test-full: test ## The same, then roles alone, bad input, NVIDIA cards, rollouts, failures, killed runs, faults, doors, secrets, data, dead hosts, adoption, promotion
	$(MAKE) roles
	$(MAKE) integration
	$(MAKE) molecule SCENARIOS='monolith nvidia rollout failures crash faults doors secrets data replace adopt promote'

# The same toolchain in its newest versions, which another Python has to run.
NEWEST = VENV=.cache/newest PYTHON=python3.13 REQUIREMENTS=requirements-newest.txt
.PHONY: test-newest
test-newest: ## The same as test, with Python 3.13 and the newest ansible-core and collections
	$(MAKE) test $(NEWEST)

.PHONY: lab
lab: setup ## Set up the lab: four hosts on this machine
	$(BIN)/ansible-playbook playbooks/lab.yml

.PHONY: lab-down
lab-down: setup ## Take the lab away; nothing of it is left
	$(BIN)/ansible-playbook playbooks/lab.yml -e lab_state=absent

.PHONY: status
status: setup ## Show what runs where (INVENTORY=...)
	$(PLAYBOOK) playbooks/status.yml

.PHONY: lint
lint: setup ## yamllint, ruff, mypy --strict, and ansible-lint with its profile production
	$(BIN)/yamllint --strict .
	$(BIN)/ruff check
	MYPYPATH=$(VENV)/source $(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/ansible-lint --offline

.PHONY: sanity
sanity: setup ## ansible-test sanity of what the archive holds (some minutes)
	.ci/sanity

.PHONY: unit
unit: setup test-tools ## Unit tests of all Python
	$(BIN)/pytest tests/unit

# Debian's packages. Where there are none, the tests that need them are skipped and say so.
.PHONY: test-tools
test-tools: ## Install what unit tests look at real things with: a headless browser, HAProxy, promtool, Postgres
	@{ command -v chromium-headless-shell || command -v chromium || command -v google-chrome; } >/dev/null \
	  && command -v haproxy >/dev/null && command -v promtool >/dev/null && [ -d /usr/lib/postgresql ] || \
	  { apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -qy --no-install-recommends install \
	    chromium-headless-shell haproxy postgresql prometheus; } || \
	  echo "Not everything could be installed: the tests that need it are skipped."

.PHONY: test-the-tests
test-the-tests: setup ## Break lines of the product one at a time, and show that the test named for each fails
	$(BIN)/python tests/the_tests/run.py $(ONLY)

.PHONY: molecule
molecule: setup ## Deploy to the lab twice, and look at it with testinfra (SCENARIOS=...)
	PATH="$(CURDIR)/$(BIN):$$PATH" MOLECULE_GLOB='molecule/*/molecule.yml' \
	  $(BIN)/molecule test $(addprefix --scenario-name ,$(SCENARIOS))

# The one of adopt is not on hosts of its own but on the lab's.
.PHONY: roles
roles: setup ## Try each role alone, on hosts of its own: in check mode, then really, twice; as shipped, and with other variables
	$(MAKE) molecule SCENARIOS='$(filter-out adopt,$(foreach role,$(notdir $(wildcard roles/*)),$(call scenarios_of,$(role))))'

.PHONY: integration
integration: setup ## Bad input, on the deployed lab
	$(BIN)/pytest tests/integration --ignore tests/integration/test_cuda.py

.PHONY: test-cuda
test-cuda: setup ## Build the ml image for NVIDIA GPUs on the deployed lab, and compute with it (several GB, many minutes)
	$(BIN)/pytest -s tests/integration/test_cuda.py

.PHONY: bench
bench: setup ## Measure a rollout beside docker compose and Swarm, on the deployed lab, and then with more hosts
	$(BIN)/python benchmarks/rollout.py
	$(MAKE) bench-scale

.PHONY: bench-scale
bench-scale: setup ## Measure runs with 2, 4, 8 and 12 API hosts, on the deployed lab and further hosts for it
	$(BIN)/python benchmarks/scale.py

.PHONY: bench-images
bench-images: setup ## Measure the images and their builds, on the deployed lab
	$(BIN)/python benchmarks/images.py

.PHONY: bench-embeddings
bench-embeddings: setup ## Measure the ML service beside another server of embeddings, on this machine (some minutes)
	$(BIN)/python benchmarks/embeddings.py

.PHONY: docs
docs: setup ## Write what the documentation takes from the code: variables and plugins
	$(BIN)/python docs/generate.py

.PHONY: collection
collection: setup ## Build the collection's archive
	$(BIN)/ansible-galaxy collection build --force

# The stamp is newer than the requirements when the toolchain is complete; an interrupted installation starts over.
$(VENV)/.complete: $(REQUIREMENTS)
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { apt-get -q update && apt-get -qy --no-install-recommends install python3-venv; }
	@echo "Installing the toolchain into $(VENV) (about a minute) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement $(REQUIREMENTS)
	@collections=$$($(BIN)/python -c 'import ansible_collections as c; print(list(c.__path__)[0])') && \
	  for place in "$$collections" $(VENV)/source/ansible_collections; do \
	    mkdir -p "$$place/truthgraph" && ln -sfn "$(CURDIR)" "$$place/truthgraph/platform"; done
	@touch $@

.PHONY: setup
setup: $(VENV)/.complete ## Install the pinned toolchain into .venv

.PHONY: requirements
requirements: setup ## Write requirements.txt and requirements-newest.txt anew from the files requirements*.in
	$(COMPILE) --python-version 3.11 requirements.in --output-file requirements.txt
	$(COMPILE) --python-version 3.13 --overrides requirements-newest.in requirements.in --output-file requirements-newest.txt

COMPILE = $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url \
	  --custom-compile-command 'make requirements'
