# Everything a person or CI does here. Targets set up what they need; a second run of setup takes under a second.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest
GENERATED := .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: help setup demo lab check test kubernetes test-unit test-compiled test-kubernetes test-root test-lab test-scale \
    tools setup-e2e e2e setup-images images containerfiles vagrant-files test-vagrant \
    setup-vm test-vm bench bench-quick bench-control proto lock clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what the project needs (Debian packages as root; the rest into .venv and .build)
	@scripts/setup.sh

demo: setup ## Show the main job, with evidence for each line (root)
	@.venv/bin/ambimesh demo

lab: setup ## Bring the lab up and leave it running (root); .venv/bin/ambimesh lab down ends it
	@.venv/bin/ambimesh lab up

# Each of check and test does all it has to do, and fails at the end if a part failed: the first fault hides no other.
CHECKS := "$(PYTHON) -m ruff check" "$(PYTHON) -m mypy" ".venv/bin/lint-imports --no-logo"
TIERS := unit compiled kubernetes root lab
UNPRIVILEGED := not root and not lab and not kubernetes and not e2e and not vagrant and not vm
# Where the modules of scripts/compile_hot.py are tested.
COMPILED := tests/mesh/hbone tests/mesh/relay tests/mesh/state tests/mesh/telemetry tests/ztunnel tests/waypoint \
    tests/mesh/test_addresses.py tests/mesh/test_compiled.py tests/mesh/test_rbac.py

check: setup ## Lint, types, import rules
	@failed=(); for check in $(CHECKS); do \
	    echo "== $$check"; $$check || failed+=("$$check"); \
	done; \
	[[ $${#failed[@]} == 0 ]] || { printf 'check: failed: %s\n' "$${failed[@]}" >&2; exit 1; }

test: setup ## Every test tier, in order of cost
	@failed=(); for tier in $(TIERS); do \
	    echo "== test-$$tier"; $(MAKE) --no-print-directory test-$$tier || failed+=("$$tier"); \
	done; \
	[[ $${#failed[@]} == 0 ]] || { printf 'test: failed tier: %s\n' "$${failed[@]}" >&2; exit 1; }

# Many of these tests wait for a clock or a peer, so that there is work for more processes than cores.
DIVIDED := --numprocesses=$(shell echo $$((2 * $$(nproc)))) --dist=worksteal

test-unit: setup tools ## Tests that need no privilege
	$(PYTEST) $(DIVIDED) -m "$(UNPRIVILEGED)"

test-compiled: setup tools ## The tests of the proxies' hot modules once more, on their compiled form
	AMBIMESH_TEST_FORM=compiled $(PYTEST) $(DIVIDED) -m "$(UNPRIVILEGED)" $(COMPILED)

kubernetes: setup ## Build a Kubernetes for tests, once per version: some 6 minutes, kept in ~/.cache/ambimesh (needs Go)
	@$(PYTHON) -m tests.e2e.kit.build

test-kubernetes: setup ## Tests against a real API server and etcd, built when they are not there
	@$(PYTHON) -m tests.e2e.kit.build kubernetes
	$(PYTEST) -m kubernetes

# Ten gigabytes, ten thousand connections; pytest by itself takes a tenth.
FULL_SIZE := AMBIMESH_TEST_SCALE=$${AMBIMESH_TEST_SCALE:-10}

test-root: setup ## Tests in network namespaces, with BPF (root)
	$(FULL_SIZE) $(PYTEST) -m "root and not lab and not e2e and not vm"

test-lab: setup ## Tests that bring a lab up (root)
	$(PYTEST) -m "lab and not vm"

setup-e2e: ## As setup, and what a test cluster needs: containerd and runc, Kubernetes, images (root; some 10 minutes once)
	@scripts/setup.sh e2e
	@$(PYTHON) -m tests.e2e.kit.build & built=$$!; \
	$(PYTHON) -m tests.e2e.kit.mesh_images; images=$$?; \
	wait $$built && exit $$images

e2e: setup-e2e ## Tests on a whole Kubernetes cluster of two nodes (root)
	$(PYTEST) -m e2e --durations=10

setup-vm: ## As setup, and what a virtual machine needs: qemu, mmdebstrap (root)
	@scripts/setup.sh vm

# TESTS: pytest's arguments, instead of the tier; MODULES: of the kernel, to be loaded first.
test-vm: setup-vm kubernetes ## Tests in a virtual machine with Debian 12's kernel, systemd and cgroup v2 alone (root)
	@$(PYTHON) -m tests.vm.kit.run $(MODULES:%=--modprobe=%) $(TESTS)

tools: ## Build the Go programs that tests use (h2spec)
	@mkdir -p .build && scripts/tools.sh

test-scale: setup ## Of these, those whose size is what they show: integrity of 10 GB, 10,000 connections (root)
	$(FULL_SIZE) $(PYTEST) -m scaled --durations=0

bench: setup ## The benchmark suite: writes tables and a picture under benchmarks/ (root)
	@$(PYTHON) -m benchmarks

bench-quick: setup ## A short form of it in under two minutes, without writing it (root)
	@$(PYTHON) -m benchmarks --quick

bench-control: setup ## What a cluster's size costs the operator: 1,000 to 10,000 pods, 50 proxies; some 4 minutes
	@$(PYTHON) -m benchmarks.control

setup-images: ## As setup, and what images are built with (root)
	@scripts/setup.sh images

images: setup-images ## Build the images without a container engine, and try each in a chroot (root)
	@$(PYTHON) scripts/image.py build $(IMAGES)

containerfiles: setup-images ## Build the Containerfiles without a registry, and try each in a chroot (root; buildah)
	@$(PYTHON) scripts/image.py containerfile $(IMAGES)

vagrant-files: setup kubernetes ## Make what the Vagrant lab is provisioned from (root; debootstrap)
	@$(PYTHON) scripts/vagrant_files.py

test-vagrant: vagrant-files ## Run the Vagrant lab's provisioning in a root of its own (root; debootstrap, vagrant)
	$(PYTEST) -m vagrant

proto: setup ## Regenerate mesh/wire from its .proto files
	@$(PYTHON) -m mesh.wire.generate

lock: setup ## Choose the newest versions pyproject.toml admits, and write requirements/
	scripts/lock.sh

clean: ## Remove what setup and the tools made
	rm -rf .venv .build $(GENERATED)
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
