# `make` or `make help` lists the targets. V=1 shows the commands. VENV=path shares an environment between work trees.

VENV ?= .venv
PYTHON ?= python3
BIN := $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)
# This tree's packages, also where the environment was installed from another tree.
export PYTHONPATH := $(CURDIR):$(CURDIR)/kernels
# Without bytecode on disk, each process would compile every module again.
unexport PYTHONDONTWRITEBYTECODE
OPS := $(words $(wildcard kernels/fastmim_kernels/*/cpu.cpp))
NATIVE := CMakeLists.txt $(shell find kernels -name '*.cpp' -o -name '*.h')
TOOLS := $(VENV)/.tools
LIBRARY := build/.built
INSTALLED := $(VENV)/.installed
CIFAR ?= data/cifar10
CAMPAIGN := slow fuzz kills rows mutants transfer

$(if $(V),,.SILENT:)
.NOTPARALLEL:
.PHONY: help demo test lint bench readme campaign $(CAMPAIGN:%=campaign-%) clean

help: ## this list
	awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-18s %s\n", $$1, $$2 }' Makefile
	echo
	echo "The first target that needs them installs an environment into VENV=$(VENV) and compiles the ops: about 4 minutes,"
	echo "8 GB. PYTHON=path and CXX=path choose another Python (3.10 or newer) and C++20 compiler; V=1 shows commands."

demo: $(INSTALLED) data/demo/held_out/.complete ## pre-train a small ConvNeXt on photographs and drawings: about 2 minutes, after installing
	.ci/quietly --live "training on the demo images, about 2 minutes" deepspeed fastmim/train.py configs/debug/demo.py
	echo "On your images: source $(VENV)/bin/activate, then"
	echo "  deepspeed fastmim/train.py configs/debug/demo.py --data.root FOLDER --data.held_out_root None --run.dir runs/mine"

test: export OMP_NUM_THREADS = 1
test: lint ## lint and the short test suite: about 6 minutes
	echo "testing in two processes, about 5 minutes"
	python -m pytest -n 2 --dist worksteal
	echo "testing the Triton kernels in its interpreter, about 1 minute"
	TRITON_INTERPRET=1 CUDA_VISIBLE_DEVICES= python -m pytest -n 2 --dist worksteal \
		-m "triton and not slow and not gpu" tests/kernels

lint: $(INSTALLED) ## ruff and pyright, as the tests run them: seconds
	echo "linting"
	ruff check . && ruff format --check .
	echo "checking types"
	pyright

bench: $(INSTALLED) ## the op microbenchmarks and the whole-step comparison, on this machine
	python -m bench ops
	python -m bench compare

readme: $(INSTALLED) ## the tables of the READMEs and bench/results/kernels.md, from the rows in bench/results: seconds
	python -m bench readme
	python -m bench report

campaign: $(CAMPAIGN:%=campaign-%) ## the long proofs, one after another: about 5 hours; each continues where it was stopped

campaign-slow: $(INSTALLED) ## the tests that are too slow for `make test`: about 40 minutes
	python -m tests.campaign.slow

campaign-fuzz: $(INSTALLED) ## 10,000 random cases of every op: about 40 minutes
	python -m tests.campaign.fuzz

campaign-kills: $(INSTALLED) ## 50 SIGKILLs of a training run, which must end as if undisturbed: about 15 minutes
	python -m tests.campaign.kills --kills 50

campaign-rows: $(INSTALLED) ## every config trains, resumes and is exported: about 30 minutes
	python -m tests.campaign.rows

campaign-mutants: $(INSTALLED) ## seeded errors, each of which the short suite must catch: about 10 minutes
	python -m tests.mutants

campaign-transfer: $(INSTALLED) ## what pre-training is worth; CIFAR=FOLDER has train/CLASS/0000.jpg and test/CLASS: 2.5 hours
	test -d $(CIFAR)/train || { echo "$(CIFAR)/train is missing: pass CIFAR=FOLDER, as the README says."; exit 1; } >&2
	python -m tests.campaign.transfer --data $(CIFAR)

clean: ## remove what was built and the demo's run; the environment stays
	rm -rf build dist *.egg-info runs/demo kernels/fastmim_kernels/*.so

# torch, torchvision and triton come first and together, so that pip picks builds that fit each other.
$(TOOLS): setup.py pyproject.toml
	.ci/needs $(PYTHON) $(VENV)
	test -x $(BIN)/pip || .ci/quietly "making a Python environment in $(VENV)" $(PYTHON) -m venv $(VENV)
	.ci/quietly "installing pip, setuptools, cmake and ninja" \
		python -m pip install --upgrade pip setuptools wheel cmake ninja
	.ci/quietly "installing torch and 40 packages with it, about 2 minutes" python -m pip install torch torchvision
	touch $@

$(LIBRARY): $(TOOLS) $(NATIVE)
	.ci/needs $(BIN)/python $(VENV)
	.ci/quietly "compiling $(OPS) ops and the file reader, about 1 minute" python setup.py build_ext --inplace
	touch $@

# After the library, which pip would otherwise compile.
$(INSTALLED): $(TOOLS) | $(LIBRARY)
	.ci/quietly "installing fastmim and 60 other packages, about 2 minutes" \
		python -m pip install --no-build-isolation --editable '.[test,demo]'
	touch $@

data/demo/held_out/.complete: $(INSTALLED)
	.ci/quietly "writing 2000 demo images" fastmim demo-data data/demo/train --part train --count 2000 --size 96
	.ci/quietly "writing 48 held-out images" fastmim demo-data data/demo/held_out --part held_out --count 48 --size 96
	touch $@
