# make demo     the whole way on a sample corpus, or on VIDEOS=folder-or-manifest
#               LLM=1: a language model on this machine labels a priority corpus of a dozen videos, the student covers the rest
# make test     every test; what needs a service that is missing skips and says so
# make services installs what the tests need besides Python (Debian)
# make bench    the figures of the README
# make soak     long runs
VENV ?= .venv
DEMO ?= demo
VIDEOS ?= $(DEMO)/videos
LLM ?=
LLM_MODEL ?= qwen2.5-1.5b
LLM_PORT ?= 8089
SAMPLE := $(filter $(DEMO)/videos,$(VIDEOS))
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && { echo $$p; break; }; done)

# Where bytecode is not kept, every command compiles everything anew. What takes longest is compiled side by side, once.
export PYTHONDONTWRITEBYTECODE =
HEAVY := tensorflow,keras,tensorflow_transform apache_beam,features.feast_api,pipelines.annotate,google.genai,openai

.PHONY: env demo test services bench soak lint clean

env: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt setup.py
	@test -n "$(PYTHON)" || { echo "vidattr needs Python 3.11 to 3.13: install one, or pass PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[speech,ocr,redis,llm,dev]'
	@$(foreach modules,$(HEAVY),$(BIN)/python -W ignore -c "import $(modules)" 2>/dev/null &) wait
	touch $@

demo: env
	$(BIN)/vidattr weights install
	$(if $(SAMPLE),$(BIN)/vidattr sample $(VIDEOS))
	$(if $(LLM),$(demo_with_llm),$(BIN)/vidattr run --videos $(VIDEOS)$(if $(SAMPLE),/manifest.jsonl --golden $(VIDEOS)/golden) --workspace $(DEMO)/workspace)

# The server loads while videos are extracted; requests that come too early are tried again. It ends with the run.
define demo_with_llm
$(BIN)/vidattr weights install $(LLM_MODEL)
	head -n 12 $(VIDEOS)/manifest.jsonl > $(VIDEOS)/priority.jsonl
	$(BIN)/vidattr dev llm $(LLM_MODEL) --port $(LLM_PORT) --slots 1 & server=$$!; trap "kill $$server" EXIT; \
	$(BIN)/vidattr run --videos $(VIDEOS)/manifest.jsonl --priority $(VIDEOS)/priority.jsonl --workspace $(DEMO)/llm \
		--annotator openai --base-url http://127.0.0.1:$(LLM_PORT)/v1 --model $(LLM_MODEL) \
		--ask each --evidence text --first-token --in-flight 1 --timeout 600
endef

test: env
	$(BIN)/vidattr weights install
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(TESTS)

services:
	@if command -v redis-server >/dev/null; then echo "redis-server is there"; else \
		$(if $(filter 0,$(shell id -u)),,sudo) apt-get update -qq && \
		$(if $(filter 0,$(shell id -u)),,sudo) apt-get install -y -qq redis-server; fi

bench: env
	$(BIN)/python -m benchmarks

soak: env
	$(BIN)/python -m pytest tests --soak

lint: env
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info
