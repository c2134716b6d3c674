# The commands of Cartwheel. `make up` and `make test` are all that a newcomer needs.
#
# CARGO_TARGET_DIR is respected; otherwise everything is built in target/.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help up test build fmt clippy deny doc unit process readme compose image chaos sim checkers planted model

TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
ENV := . scripts/env.sh
# Arguments of `cartwheel dev`, for example DEV_ARGS="--nodes 5 --data-dir data".
DEV_ARGS ?=
# One seed of the simulation, to be looked at.
SEED ?=
# How many seeds `make sim` runs, from which on, and for how many simulated seconds each.
SEEDS ?= 300
SEED_START ?= 1
SECONDS ?= 60

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: build ## Install what is missing, build, and run a cluster of three nodes until Ctrl-C
	@exec "$(TARGET)/release/cartwheel" dev $(DEV_ARGS)

test: ## Everything CI tests: format, lints, licences, all tests, documentation, the README's commands
	@scripts/test.sh

build: ## The release binary
	@scripts/setup.sh build
	@$(ENV) && rocksdb_env && cargo build --release --locked

fmt: ## Check the format
	@scripts/test.sh fmt

clippy: ## Lints, warnings are errors; with RocksDB and without
	@scripts/test.sh clippy

deny: ## Licences, bans and sources of all dependencies
	@scripts/test.sh deny

doc: ## Build the documentation, warnings are errors
	@scripts/test.sh doc

unit: ## Tests inside the crates: unit, property, conformance
	@scripts/test.sh unit

process: ## Tests with real processes, and the house's own rules
	@scripts/test.sh process

sim: ## Simulate clusters under random troubles: SEEDS=300 SEED_START=1 SECONDS=60, or one with its trace: SEED=N
	@SEED=$(SEED) SEEDS=$(SEEDS) SEED_START=$(SEED_START) SIM_SECONDS=$(SECONDS) scripts/test.sh sim

model: ## Search the one-key protocol one event deeper than the tests do, and with its rules switched off
	@scripts/test.sh model

checkers: ## See that the simulation still notices: a dozen safety rules switched off, each noticed within 100 seeds
	@scripts/test.sh checkers

planted: ## Switch off one safety rule after the other, and see that the simulation notices each
	@scripts/test.sh planted

compose: ## Build the image, and run the cluster of docker-compose.yml in earnest
	@scripts/test.sh compose

image: ## The image `cartwheel`, from this machine's own Debian packages
	@scripts/image.sh

chaos: ## Break real clusters: thirteen scenarios on processes and two on containers, CHAOS_SECONDS=30 each, CHAOS_SEED=1
	@scripts/test.sh chaos

readme: ## Run every command of the README
	@scripts/test.sh readme
