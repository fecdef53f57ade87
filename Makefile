# SPDX-License-Identifier: Apache-2.0
# `make demo` and `make test` do everything, from a bare checkout on.
#   PYTHON=python3.12   interpreter for the virtual environment
#   RSVHEAT_CUDA=OFF    (environment) leave out the CUDA kernels where there is an nvcc

PYTHON ?= python3
VENV ?= .venv
SANITIZE ?= address,undefined
WERROR ?= OFF
PYTEST_ARGS ?=
BENCH_ARGS ?=
DEMO_ARGS ?=
WHEELS_ARGS ?=
MMCV_WHEEL ?=
REPRODUCE_ARGS ?=
INSTALL_VARIANTS ?=

BIN := $(VENV)/bin
comma := ,
CPP_BUILD := build/cpp-$(subst $(comma),-,$(SANITIZE))
CPP_FILES = $(shell find csrc tests/cpp -name '*.cpp' -o -name '*.h' -o -name '*.inl' -o -name '*.cu')
SOURCES = $(CPP_FILES) $(shell find $(wildcard benchmarks cmake csrc examples rsvheat tests tools) \
  -name '*.py' -o -name '*.pyi' -o -name '*.cmake' -o -name '*.yaml' -o -name CMakeLists.txt)

# What `make test-torch-matrix` runs one wheel with: the lower bounds in pyproject.toml, the newest.
OLDEST := torch==2.11.0 torchvision==0.26.0 numpy==2.1.0 timm==1.0.20 safetensors==0.5.0 huggingface_hub==0.30.0 \
  onnx==1.17.0 onnxscript==0.6.0 onnxruntime==1.20.1 scipy==1.14.1 pytest==8.3.0
NEWEST := --upgrade torch torchvision numpy timm safetensors huggingface_hub onnx onnxscript onnxruntime scipy pytest

.PHONY: help demo test build wheels test-torch-matrix test-cpp test-aarch64 test-python test-mm \
  test-mm-operators test-hosts test-torchgeo test-terratorch test-install test-extras test-long fuzz \
  bench-boxes reproduce notebooks docs lint format clean
.DELETE_ON_ERROR:

help: ## list the targets
	@sed -n 's/^\([a-z][a-z0-9-]*\):[^#]*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | \
	  awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

# Pretrains, fine-tunes and maps in minutes; DEMO_ARGS='--seed 1' and so on, see rsvheat demo --help.
demo: build ## pretrain, fine-tune and map the bundled images
	$(BIN)/rsvheat demo $(DEMO_ARGS)

# Two at a time, where each is one process for most of its time.
SIDE_BY_SIDE := --jobs=2 --no-print-directory
test: ## everything that has to pass
	$(MAKE) $(SIDE_BY_SIDE) lint test-cpp
	$(MAKE) --no-print-directory test-python
	$(MAKE) $(SIDE_BY_SIDE) test-mm test-torchgeo docs

# An incremental build: seconds when nothing changed.
build: $(VENV)/.dependencies ## build what changed and install it in the virtual environment
	RSVHEAT_WERROR=$(WERROR) $(BIN)/pip install -q --no-build-isolation -e '.[explain,export,geo,torchgeo,train]'

# Every test once per CPU capability that the machine has, then the CUDA kernels emulated.
# SANITIZE=thread looks for data races instead.
test-cpp: $(VENV)/.dependencies ## C++ tests under sanitizers, CUDA kernels emulated
	$(BIN)/cmake -S . -B $(CPP_BUILD) -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) \
	  -DRSVHEAT_NATIVE=OFF -DRSVHEAT_TESTS=ON -DRSVHEAT_SANITIZE=$(SANITIZE) \
	  -DRSVHEAT_WERROR=$(WERROR)
	$(BIN)/cmake --build $(CPP_BUILD)
	$(BIN)/ctest --test-dir $(CPP_BUILD) --output-on-failure --parallel

# The C++ core for 64-bit ARM by a cross compiler, and its tests under qemu.
# Debian, Ubuntu: apt install g++-aarch64-linux-gnu qemu-user libgtest-dev
test-aarch64: $(VENV)/.dependencies ## C++ tests for 64-bit ARM under qemu
	$(BIN)/cmake -S . -B build/aarch64 -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) \
	  -DCMAKE_TOOLCHAIN_FILE=$(abspath cmake/aarch64.cmake) -DRSVHEAT_NATIVE=OFF -DRSVHEAT_TESTS=ON \
	  -DRSVHEAT_WERROR=$(WERROR)
	$(BIN)/cmake --build build/aarch64 --target core_test
	$(BIN)/ctest --test-dir build/aarch64 -R core_generic --output-on-failure

# Each process takes whole files, on one thread; PYTEST_ARGS='-n 0' runs all in one, for --pdb say.
PARALLEL := -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
test-python: build ## Python tests; PYTEST_ARGS='-k dct2d' chooses
	OMP_NUM_THREADS=1 RSVHEAT_REQUIRE_NATIVE=1 $(BIN)/pytest $(PARALLEL) $(PYTEST_ARGS)

# What takes hours: every test marked slow, with 50 kills, 2,000 predictions, 500 training steps.
# RSVHEAT_LONG=0.1 makes a tenth of these.
test-long: build ## tests marked slow: hours
	OMP_NUM_THREADS=1 RSVHEAT_REQUIRE_NATIVE=1 $(BIN)/pytest -m slow $(PYTEST_ARGS)

# Looks for inputs on which readers of files raise what is not told as an error, by coverage. The
# corpus stays in build/fuzz, where the next run goes on; FUZZ_SECONDS is for each target.
FUZZ_SECONDS ?= 600
FUZZ_TARGETS := readers checkpoints
fuzz: build ## fuzz readers of files and checkpoints
	$(BIN)/pip install -q --group fuzz
	mkdir -p build/fuzz
	for target in $(FUZZ_TARGETS); do \
	  OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/fuzz_$$target.py build/fuzz/$$target \
	    -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=8192 -timeout=60 \
	    -artifact_prefix=build/fuzz/$$target- || exit 1; \
	done

# The OpenMMLab plug-in. mmcv-lite stands in for mmcv, and torchvision for its compiled operators.
test-mm: build build/mm-lite/.dependencies ## tests of the OpenMMLab plug-in
	RSVHEAT_REQUIRE_NATIVE=1 build/mm-lite/bin/python -m pytest $(PYTEST_ARGS) \
	  tests/integrations/test_mm.py

# The same with mmcv's own operators, and mmrotate. MMCV_WHEEL is the path of a wheel of onedl-mmcv with
# operators compiled for this Python and this torch; PyPI has none.
test-mm-operators: build build/mm-operators/.dependencies ## the same with mmcv's compiled operators: MMCV_WHEEL=...
	RSVHEAT_REQUIRE_NATIVE=1 RSVHEAT_REQUIRE_MM_OPERATORS=1 \
	  build/mm-operators/bin/python -m pytest $(PYTEST_ARGS) tests/integrations/test_mm.py \
	  tests/ops/test_boxes_mmcv.py

# Operators on rotated boxes beside their peers: BENCH_ARGS=--write stores the tables. oriented-det is
# installed without what only its training needs.
bench-boxes: build build/mm-operators/.dependencies ## time operators on rotated boxes beside their peers
	$(BIN)/pip --python build/mm-operators/bin/python install -q --no-deps oriented-det==0.4.1
	build/mm-operators/bin/python benchmarks/boxes.py $(BENCH_ARGS)

# Measures the committed figures again that take under an hour each, and compares them; exit status 1
# if one is missed. REPRODUCE_ARGS='--steps "the demo"' chooses some. Needs a machine that is idle.
reproduce: build ## measure committed figures again and compare
	RSVHEAT_WERROR=$(WERROR) $(BIN)/pip install -q --no-build-isolation -e '.[bench]'
	$(BIN)/python benchmarks/reproduce.py $(REPRODUCE_ARGS)

# They see the packages of $(VENV), so torch is installed once. OpenCV comes without windows, whose
# libraries (libGL) a server lacks: the headless package writes over the one that mmengine asks for.
PACKAGES := import sysconfig; print(sysconfig.get_path("purelib"))
MMCV_operators = $(or $(MMCV_WHEEL),$(error MMCV_WHEEL has to name an mmcv wheel))
build/mm-%/.dependencies: $(VENV)/.dependencies
	$(BIN)/python -m venv --without-pip build/mm-$*
	echo "import site; site.addsitedir('$$($(BIN)/python -c '$(PACKAGES)')')" \
	  > $$(build/mm-$*/bin/python -c '$(PACKAGES)')/venv.pth
	$(BIN)/pip --python build/mm-$*/bin/python install -q --group mm-$* $(MMCV_$*)
	$(BIN)/pip --python build/mm-$*/bin/python install -q --no-deps --force-reinstall \
	  opencv-python-headless
	touch $@

# Libraries that the encoder is a backbone for, in environments of their own.
test-hosts: test-torchgeo test-terratorch ## tests under TorchGeo and TerraTorch

test-torchgeo: build build/host-torchgeo/.dependencies ## tests under TorchGeo, smp and torchvision
	RSVHEAT_REQUIRE_NATIVE=1 build/host-torchgeo/bin/python -m pytest $(PYTEST_ARGS) \
	  $(addprefix tests/integrations/test_,torchgeo.py smp.py torchvision.py)

test-terratorch: build build/host-terratorch/.dependencies ## tests under TerraTorch
	RSVHEAT_REQUIRE_NATIVE=1 build/host-terratorch/bin/python -m pytest $(PYTEST_ARGS) \
	  tests/integrations/test_terratorch.py

build/host-%/.dependencies: $(VENV)/.dependencies
	$(BIN)/python -m venv --without-pip build/host-$*
	echo "import site; site.addsitedir('$$($(BIN)/python -c '$(PACKAGES)')')" \
	  > $$(build/host-$*/bin/python -c '$(PACKAGES)')/venv.pth
	$(BIN)/pip --python build/host-$*/bin/python install -q --group host-$*
	touch $@

# Runs the notebooks in examples/, whose outputs are committed with them: about two minutes each.
NOTEBOOKS ?= $(wildcard examples/*.ipynb)
notebooks: build ## run the notebooks in place
	for notebook in $(NOTEBOOKS); do \
	  $(BIN)/jupyter execute --inplace $$notebook || exit 1; \
	done

# The documentation, in build/site, by the settings of mkdocs.yml; a warning is an error. Docstrings are
# read without importing the package, so neither a build nor torch is needed.
docs: build/docs/.dependencies ## build the documentation
	NO_MKDOCS_2_WARNING=1 build/docs/bin/mkdocs build -q

build/docs/.dependencies: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q --upgrade 'pip>=25.1'
	$(BIN)/python -m venv --without-pip build/docs
	$(BIN)/pip --python build/docs/bin/python install -q --group docs
	touch $@

# The sdist and the wheels of a release in dist/: manylinux for each CPython that the machine has, with
# kernels for the CPU alone and for CUDA too, and one without kernels. The first time takes minutes.
# WHEELS_ARGS='--variants cpu' chooses, see tools/build_wheels.py --help.
wheels: $(VENV)/.dependencies ## build the sdist and the wheels of a release in dist/
	$(BIN)/pip install -q --group wheels
	$(BIN)/python tools/build_wheels.py $(WHEELS_ARGS)

# A wheel of dist/ under the oldest and the newest torch: two environments of several GB in build/. The
# tests run from there, where no process of theirs can import the source tree. Another interpreter's
# wheel: WHEEL_PYTHON=python3.13; another variant: VARIANT=cpu; some tests: WHEEL_TESTS='ops test_binary.py'.
test-torch-matrix: ## test a wheel of dist/ under the oldest and the newest torch
	for versions in oldest newest; do \
	  $(MAKE) --no-print-directory test-wheel-$$versions || exit 1; \
	done

VARIANT ?= cuda
WHEEL_TESTS ?= .
WHEEL_PYTHON ?= $(BIN)/python
TAG := import sys; print("cp%d%d" % sys.version_info[:2])
test-wheel-%: $(VENV)/.dependencies
	test -x build/$*/bin/python || $(WHEEL_PYTHON) -m venv --without-pip build/$*
	$(BIN)/pip --python build/$*/bin/python install -q $(if $(filter oldest,$*),$(OLDEST),$(NEWEST))
	$(BIN)/pip --python build/$*/bin/python install -q --no-deps --force-reinstall \
	  dist/$(VARIANT)/rsvheat-*-$$(build/$*/bin/python -c '$(TAG)')-*.whl
	cd build/$* && RSVHEAT_REQUIRE_NATIVE=1 bin/python -m pytest -c ../../pyproject.toml \
	  -m 'not slow and not source_tree' $(PYTEST_ARGS) $(addprefix ../../tests/,$(WHEEL_TESTS))

# Each extra alone is enough for what it is for. The environments of the extras see the packages of one
# that holds the wheel without extras, so torch is installed once.
EXTRAS ?= geo explain export train parquet dask stac torchgeo mm bench test all
test-extras: $(VENV)/.dependencies ## install each extra alone and use it
	rm -rf build/extra-wheel
	$(BIN)/pip wheel -q --no-build-isolation --no-deps -w build/extra-wheel .
	test -x build/extra-none/bin/python || $(BIN)/python -m venv --without-pip build/extra-none
	$(BIN)/pip --python build/extra-none/bin/python install -q build/extra-wheel/rsvheat-*.whl
	$(BIN)/pip --python build/extra-none/bin/python install -q --no-deps --force-reinstall \
	  build/extra-wheel/rsvheat-*.whl
	cd build/extra-none && bin/python ../../tests/run_extra.py none
	for extra in $(EXTRAS); do \
	  $(MAKE) --no-print-directory test-extra-$$extra || exit 1; \
	done

test-extra-%:
	test -x build/extra-$*/bin/python || $(BIN)/python -m venv --without-pip build/extra-$*
	echo "import site; site.addsitedir('$$(build/extra-none/bin/python -c '$(PACKAGES)')')" \
	  > $$(build/extra-$*/bin/python -c '$(PACKAGES)')/venv.pth
	$(BIN)/pip --python build/extra-$*/bin/python install -q 'rsvheat[$*]'
	cd build/extra-$* && bin/python ../../tests/run_extra.py $*

# Installs from source with build isolation, as users do: with the CMake and the nvcc of this machine,
# then with each of them hidden. Each variant downloads torch twice (several GB) and takes 4 to 15
# minutes; INSTALL_VARIANTS='readme editable' chooses some.
test-install: $(VENV)/.dependencies ## install from source with build isolation, with and without CMake and nvcc
	$(BIN)/python tests/install_from_source.py --folder build/install $(INSTALL_VARIANTS)

lint: build ## formatting, lint, types, license lines
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/stubtest rsvheat._native
	$(BIN)/clang-format --dry-run -Werror $(CPP_FILES)
	@missing=$$(grep -rL 'SPDX-License-Identifier' $(SOURCES)); test -z "$$missing" || \
	  { echo "without an SPDX-License-Identifier line: $$missing"; exit 1; }

format: $(VENV)/.dependencies ## apply the formatters
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP_FILES)

# Without ensurepip, which Debian keeps in a package of its own, the system's pip helps out.
$(VENV)/bin/python:
	if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then \
	  $(PYTHON) -m venv $(VENV); \
	else \
	  $(PYTHON) -m venv --without-pip $(VENV) && \
	  $(PYTHON) -m pip -q --python $(VENV)/bin/python install pip; \
	fi

$(VENV)/.dependencies: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install -q --upgrade 'pip>=25.1'
	$(BIN)/pip install -q --group dev
	touch $@

clean: ## remove what was built; keeps the virtual environment
	rm -rf build dist runs .mypy_cache .pytest_cache .ruff_cache
	rm -f $(VENV)/.dependencies
