# make demo     pre-train a small MAE on photographs, from nothing
# make test     everything a CPU can prove, in about an hour of one core
# make lint     ruff, as the tests run it
# make bench    the op microbenchmarks and the whole-step comparison, on this machine
# make readme   README.md's tables of results and bench/results/kernels.md, from the rows in bench/results
# make campaign the long proofs: slow tests, fuzz of every op, kills, every row of the tables; what pre-training is worth
#               on CIFAR-10, which CIFAR=FOLDER holds as train/CLASS/0000.jpg and test/CLASS/0000.jpg
#
# VENV=path shares a virtual environment between work trees.

VENV ?= .venv
PYTHON ?= python3
BIN := $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)
# This tree's packages, also where the environment was installed from another tree.
export PYTHONPATH := $(CURDIR):$(CURDIR)/kernels
NATIVE := CMakeLists.txt $(shell find kernels -name '*.cpp' -o -name '*.h')
LIBRARY := build/.built
RUN := runs/demo
CIFAR ?= data/cifar10

.PHONY: demo test lint bench readme campaign clean

demo: $(LIBRARY) data/demo/.complete
	deepspeed fastmim/train.py configs/debug/demo.py
	@echo "The encoder in timm: timm.create_model('local-dir:$(RUN)/encoder', pretrained=True)"

test: export OMP_NUM_THREADS = 1
test: lint
	python -m pytest -n 2 --dist worksteal
	TRITON_INTERPRET=1 python -m pytest -n 2 --dist worksteal -m triton tests/kernels

lint: $(LIBRARY)
	ruff check . && ruff format --check .

bench: $(LIBRARY)
	python -m bench.ops
	python -m bench.compare

readme: $(LIBRARY)
	python -m bench.readme
	python -m bench.report

campaign: $(LIBRARY) data/demo/.complete
	python -m pytest -m slow
	python -m tests.campaign.fuzz
	python -m tests.campaign.kills --kills 50
	python -m tests.campaign.rows
	python -m tests.campaign.transfer --data $(CIFAR)

clean:
	rm -rf build dist *.egg-info runs/demo kernels/fastmim_kernels/*.so

# torch, torchvision and triton come first and together, so that pip picks builds that fit each other.
$(VENV)/.installed: setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	python -m pip install --quiet --upgrade pip setuptools wheel cmake ninja
	python -m pip install --quiet torch torchvision
	python -m pip install --quiet --no-build-isolation --editable '.[test,demo]'
	touch $@

$(LIBRARY): $(VENV)/.installed $(NATIVE)
	python setup.py --quiet build_ext --inplace
	mkdir -p build && touch $@

data/demo/.complete: $(VENV)/.installed
	fastmim demo-data data/demo
	touch $@
