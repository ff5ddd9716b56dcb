# Each target calls `python -m devstack`, which creates .venv if it is missing; `make help` lists the targets.
PYTHON ?= python3
DEVSTACK := exec $(PYTHON) -m devstack

LOCK := .venv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade)

.DEFAULT_GOAL := help
.PHONY: help run test unit chaos cluster bench check docs stop wait clean distclean services install lock

help: ## list the targets and the variables
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | awk -F '\t' '{printf "  make %-10s %s\n", $$1, $$2}'
	@printf '%s\n' '' 'variables (make run DEMO=0, or from the environment):' \
	'  DEMO=0           send no demo payments' \
	'  LOGS=0           do not show the logs of the roles (they are in DEV_DIR/logs)' \
	'  DEV_DIR          folder of all files of a stack (.dev; .dev-test for make test)' \
	'  DEV_PORT_BASE    first port (15870; 16870 for make test); in this order: API, Flower, RabbitMQ management,' \
	'                   PostgreSQL, AMQP, unused, Erlang distribution, Erlang port mapper, test alerts, test acquirer' \
	'  DEV_CACHE        folder of the unpacked RabbitMQ, shared by all stacks (.dev-cache)' \
	'  DEV_SERVER_DIR   folder for the data of servers that root starts (/var/lib/payment-gateway-devstack)' \
	'  DEV_RESTART=1    restart a role that ends, instead of stopping everything' \
	'  DATABASE_URL     use this PostgreSQL instead of the embedded one (TEST_DATABASE_URL for make test)' \
	'  RABBITMQ_URL     use this RabbitMQ, with RABBITMQ_MANAGEMENT_URL (TEST_RABBITMQ_URL for make test)' \
	'  SEED, PAYMENTS, FAULTS  of make chaos (a new seed each time, 2000, 20)' \
	'  QUICK=1          of make bench: about 3 minutes. ROUNDS (3). GROWTH=1: repeat with 10 000 000 stored payments' \
	'  ARGS             arguments of pytest for make test and make unit, such as ARGS="-k refund -x"' \
	'  PYTHON           the interpreter that creates .venv (python3)' \
	'  WAIT_SECONDS     how long make wait waits (300)' \
	'Every setting of .env.example applies too. A .env file in this folder is read; the environment overrides it.'

run: ## start everything, send demo payments, print the URLs; Ctrl-C stops
	@$(DEVSTACK) run

test: ## run all tests on a separate stack; a running gateway is not affected
	@$(DEVSTACK) test $(ARGS)

unit: ## run the tests that need no server, in seconds
	@$(DEVSTACK) unit $(ARGS)

chaos: ## inject faults into real processes under load and check every payment; SEED, PAYMENTS, FAULTS
	@$(DEVSTACK) chaos

cluster: ## kill and restart the nodes of a RabbitMQ cluster under load and check every payment
	@$(DEVSTACK) cluster

bench: ## compare the gateway's speed with a plain Celery pipeline; QUICK=1, ROUNDS, GROWTH=1
	@$(DEVSTACK) bench

check: ## lint, format, types, import contracts, code rules, documents, migrations
	@$(DEVSTACK) check

docs: ## generate the pages of docs/ that come from the code
	@$(DEVSTACK) docs

stop: ## stop the stack, or processes that a killed one left behind
	@$(DEVSTACK) stop

wait: ## return when the stack is up
	@$(DEVSTACK) wait

clean: ## stop, and delete all data, passwords, keys and logs
	@$(DEVSTACK) clean

distclean: ## clean, and delete .venv and the unpacked RabbitMQ
	@$(PYTHON) -m devstack distclean
	@rm -rf .venv .venv.lock .dev-cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

services: ## start only PostgreSQL and RabbitMQ; their URLs are in DEV_DIR/env
	@$(DEVSTACK) services

install: ## only create .venv
	@$(DEVSTACK) install

lock: install ## write the lock files from the requirements; UPGRADE=1 upgrades to the newest versions
	@$(LOCK) requirements.txt -o requirements.lock
	@$(LOCK) requirements-dev.txt -c requirements.lock -o requirements-dev.lock
