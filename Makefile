# `make` alone lists the targets. Everything is set up by itself: uv is taken from the PATH, or
# installed into .uv/ below this folder.
SHELL := /bin/bash
.DEFAULT_GOAL := help

UV := $(or $(shell command -v uv 2>/dev/null),.uv/bin/uv)
PYTHON ?= python3
RUN := $(UV) run --locked
ARGS ?=
COMPOSE ?= docker compose
# Each command is a process of its own: without bytecode on disk it would compile all its imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup train test coverage lock lint format types imports check bench bench-quality bench-serving soak sbom audit mlflow services images images-test rename clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet --disable-pip-version-check uv

setup: $(filter .uv/bin/uv,$(UV)) ## install everything into .venv
	$(UV) sync --locked --quiet

train: setup ## train the network on iris; more settings: make train ARGS="model=gb seed=0"
	$(RUN) python -m entrypoints.train model=mlp data=iris $(ARGS)

# The long ones are trainings on several devices, pipelines, benchmarks and the like.
TESTS := -m "not long"
test: setup ## run the tests, but for the long ones
	$(RUN) pytest -n auto --dist worksteal $(TESTS) $(ARGS)

# A third slower than the tests alone.
coverage: override TESTS :=
coverage: override ARGS += --cov --cov-report=term-missing:skip-covered
coverage: test ## run all tests, and see that they reach the code

lock: $(filter .uv/bin/uv,$(UV)) ## see that uv.lock says what pyproject.toml does
	$(UV) lock --check

lint: setup ## ruff: rules and format
	$(RUN) ruff check .
	$(RUN) ruff format --check .

format: setup ## let ruff mend what it can, and strip the notebooks
	$(RUN) ruff check --fix .
	$(RUN) ruff format .
	$(RUN) python -m tests.notebooks.strip

types: setup ## mypy, strict
	$(RUN) mypy

imports: setup ## who may import whom
	$(RUN) lint-imports

check: lock lint types imports coverage ## all that CI runs

bench: setup ## how long things take, beside the ways without this project: one table a part
	$(RUN) python -m benchmarks $(ARGS)

bench-quality: setup ## how well models predict, beside the libraries they are of
	$(RUN) python -m benchmarks.quality $(ARGS)

bench-serving: setup ## how fast a model is served, beside other servers
	$(RUN) python -m benchmarks.serving $(ARGS)

# docs/reliability.md says what each of them promises, and what was seen.
soak: setup ## attack models, trainings, trackers, stores and servers at length, for hours
	$(RUN) python -m tests.soak.mutated_models --mutations 100000
	$(RUN) python -m tests.soak.signed_models --attempts 100000
	$(RUN) python -m tests.soak.hostile_targets
	$(RUN) python -m tests.soak.save_faults
	$(RUN) python -m tests.soak.training_kills --kills 30
	$(RUN) python -m tests.soak.preprocess_kills --kills 100
	$(RUN) python -m tests.soak.sweep_kills --trials 40 --kills 10
	$(RUN) python -m tests.soak.sweep_kills --trials 40 --kills 2 --processes 4
	$(RUN) python -m tests.soak.tracking_faults
	$(RUN) python -m tests.soak.journal_kills --kills 60
	$(RUN) python -m tests.soak.store_faults
	$(RUN) python -m tests.soak.two_at_once --processes 2 --times 40
	$(RUN) python -m tests.soak.two_at_once --processes 8 --times 10
	$(RUN) python -m tests.soak.fuzzed_requests --requests 100000
	$(RUN) python -m tests.soak.described_requests --examples 150
	$(RUN) python -m tests.soak.hoarders
	$(RUN) python -m tests.soak.overload
	$(RUN) python -m tests.soak.serve_ends --ends 100
	$(RUN) python -m tests.soak.reloads --versions 100
	$(RUN) python -m tests.soak.canaries

sbom: setup ## list all packages with their versions, hashes and licences in sbom.json
	$(UV) export --quiet --locked --no-dev --all-extras --format cyclonedx1.5 --output-file sbom.json
	$(RUN) python tools/sbom.py sbom.json

audit: setup ## ask osv.dev for known vulnerabilities of the locked packages
	$(UV) audit --locked

mlflow: setup ## the page with the runs, at http://127.0.0.1:5000
	$(RUN) mlflow ui --backend-store-uri $${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db} $(ARGS)

# What the images are built from.
services images: export GIT_COMMIT = $(shell git describe --always --dirty --abbrev=40 --exclude='*')

services: .env ## start a store, a tracking server and its database in containers
	$(COMPOSE) up --detach --build mlflow
	@curl --silent --fail --output /dev/null --retry 90 --retry-all-errors --retry-delay 2 \
	  http://localhost:5000/health
	@echo
	@echo 'store     http://localhost:7000 (console: http://localhost:7001), keys in .env'
	@echo 'tracking  http://localhost:5000'
	@echo 'train     MLFLOW_TRACKING_URI=http://localhost:5000 make train ARGS=storage=minio'
	@echo '          $(COMPOSE) run --rm train model=mlp data=iris'
	@echo 'stop      $(COMPOSE) down'

# With passwords of its own; one that is there is never touched.
.env:
	@umask 077 && random() { $(PYTHON) -c "import secrets; print(secrets.token_hex($$1))"; } && { \
	  echo '# Written by make services; .env.example says what else may stand here.'; \
	  echo "AWS_ACCESS_KEY_ID=$$(random 8)"; \
	  echo "AWS_SECRET_ACCESS_KEY=$$(random 20)"; \
	  echo "POSTGRES_PASSWORD=$$(random 20)"; \
	  echo 'S3_ENDPOINT_URL=http://localhost:7000'; \
	} > $@.new && mv $@.new $@
	@echo 'passwords .env is new'

images: ## build the images of the stages; settings of a build: make images ARGS="--build-arg ..."
	docker build -f docker/preprocess/Dockerfile -t preprocessing-job --build-arg GIT_COMMIT $(ARGS) .
	docker build -f docker/train/Dockerfile -t training-job --build-arg GIT_COMMIT $(ARGS) .
	docker build -f docker/serve/Dockerfile -t model-server --build-arg GIT_COMMIT $(ARGS) .
	docker build -f docker/mlflow/Dockerfile -t tracking-server --build-arg GIT_COMMIT $(ARGS) .

images-test: setup ## build the images without docker and run the stages in them; as root on Debian
	$(RUN) pytest -n 0 -p no:cacheprovider tests/images/check_images.py $(ARGS)

# Before the set-up, too: it takes python3 and git alone. Some systems have a NAME in the environment.
rename: ## make the project one's own: make rename NAME=my_project
	@$(if $(filter command,$(origin NAME)),,$(error NAME is required: make rename NAME=my_project))
	@$(PYTHON) tools/rename.py $(if $(filter 1,$(FORCE)),--force) -- "$$NAME"

clean: ## remove caches; runs, models and data stay
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .coverage .coverage.* dist
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
