# Two commands for newcomers: `make demo` and `make test`. Both set everything up in .venv.

PYTHON ?= python3
BIN := .venv/bin
# TensorRT's own Python bindings without its libraries: tests compare our calls with them.
TENSORRT_BINDINGS := 10.16.1.11 11.4.0.106
# glibc keeps the large arrays that torch and ONNX Runtime give back, else each is faulted in anew.
KEEP_MEMORY := MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=2000000000
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-long lint types kernels gpu-check install clean
.DEFAULT_GOAL := demo

demo: install demo/efficientnet-lite0.onnx demo/photos
	$(BIN)/klieg explain demo/efficientnet-lite0.onnx demo/photos -o demo/pictures \
		--method cameras --method casm
	@echo
	@echo "The pictures: $$(ls demo/pictures/*.png | grep -v -e -cameras -e -casm | tr '\n' ' ')"

demo/efficientnet-lite0.onnx: | install
	$(BIN)/klieg export --masker simplified-ca -o $@

demo/photos: | install
	$(BIN)/python samples/sample_photos.py $@

test: install lint types
	$(KEEP_MEMORY) $(BIN)/pytest

# What takes longest, network by network, and would keep `make test` from ending within 20 minutes.
test-long: install
	$(KEEP_MEMORY) $(BIN)/pytest -m long

# One compressed file with klieg's CUDA kernels for all GPUs; needs nvcc 13 and takes a minute.
kernels: install
	$(BIN)/python -m klieg.kernels.cuda.fatbin

# What only a GPU can show. PYTHON may be any that has what it needs: see tests/gpu/check.py.
gpu-check: build/types
	PYTHONPATH=build/types $(PYTHON) tests/gpu/check.py -o docs/gpu-check.md

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# An editable install maps klieg to three folders, which mypy cannot follow: show it links instead.
types: install build/types
	MYPYPATH=build/types $(BIN)/mypy -p klieg

.PHONY: build/types
build/types:
	@rm -rf build/types && mkdir -p build/types/klieg
	@ln -s $(CURDIR)/sdk/* $(CURDIR)/export $(CURDIR)/kernels build/types/klieg/

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@echo "setting up .venv (a few minutes, about 6 GB: torch brings CUDA along)"
	$(PYTHON) -m venv .venv
	$(INSTALL) pip
	$(INSTALL) --editable '.[cpu,export,train,eval,demo]' --group dev
	for version in $(TENSORRT_BINDINGS); do \
		$(INSTALL) --no-deps --target .venv/tensorrt-$${version%%.*} \
			tensorrt-cu13-bindings==$$version || exit; done
	@touch $@

clean:
	rm -rf .venv build demo
