# Two commands for newcomers: `make demo` and `make test`. Both set everything up in .venv.

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint types install clean
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
	$(BIN)/pytest

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# An editable install maps klieg to three folders, which mypy cannot follow: show it links instead.
types: install
	@rm -rf build/types && mkdir -p build/types/klieg
	@ln -s $(CURDIR)/sdk/* $(CURDIR)/export $(CURDIR)/kernels build/types/klieg/
	MYPYPATH=build/types $(BIN)/mypy -p klieg

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@echo "setting up .venv (a few minutes, about 6 GB: torch brings CUDA along)"
	$(PYTHON) -m venv .venv
	$(INSTALL) pip
	$(INSTALL) --editable '.[cpu,export,train,eval,demo]' --group dev
	@touch $@

clean:
	rm -rf .venv build demo
