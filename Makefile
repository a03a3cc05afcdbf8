# A thin front of CMake; docs/building.md has the options.
#
#   make                     build into build/release
#   make demo                install what is missing, build, run tools/demo.sh (ARGS="--text FILE")
#   make test                install what is missing, build, run every test
#   make test T=pattern SEED=n    the tests whose name fits, with that seed
#   make test-fast           without those labelled slow
#   make soak                sessions coming and going for SOAK_SECONDS=180 under sanitizers
#   make tsan                what has threads under ThreadSanitizer (T=pattern picks some)
#   make fuzz                each fuzz target for FUZZ_SECONDS=60 (T=pattern picks some)
#   make bench               this machine's rates and the training benchmark
#   make coverage            run the tests, say which share of the lines ran
#   make portable            build/ratplus-portable: a folder with the program and its libraries
#   make install             DESTDIR=, prefix=/usr/local
#   make deps                install the Debian packages that are missing
#   make format              clang-format over the tree
#
# OPTIONS="-DRATPLUS_CORE=ON ..." goes to CMake; PRESET=debug|asan|... picks another build.

PRESET ?= release
OPTIONS ?=
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
prefix ?= /usr/local
BUILD = build/$(PRESET)
T ?=
SEED ?=
ARGS ?=

.PHONY: all configure demo test test-fast soak tsan fuzz bench coverage portable install deps format clean
all: configure
	@cmake --build $(BUILD) -j $(JOBS)

# Configured again only when an option is given or nothing is there; CMake itself sees changes.
configure:
	@if [ -n "$(strip $(OPTIONS))" ] || [ ! -f $(BUILD)/Makefile ]; then \
	  cmake --preset $(PRESET) $(OPTIONS); fi

deps:
	@tools/deps.sh

demo:
	@tools/deps.sh
	@$(MAKE) --no-print-directory all
	@tools/demo.sh $(ARGS)

test:
	@tools/deps.sh test
	@$(MAKE) --no-print-directory all
	@tests/run.sh $(BUILD) '$(T)' '$(SEED)'

test-fast:
	@tools/deps.sh test
	@$(MAKE) --no-print-directory all
	@CHECK_FAST=1 tests/run.sh $(BUILD) '$(T)' '$(SEED)'

soak:
	@tools/deps.sh test
	@$(MAKE) --no-print-directory PRESET=asan all
	@SOAK_SECONDS=$${SOAK_SECONDS:-180} tests/run.sh build/asan session_soak '$(SEED)'

tsan:
	@if ! tools/deps.sh test fuzz; then \
	  echo "skipped: ThreadSanitizer needs clang and LLVM's OpenMP with archer"; else \
	  $(MAKE) --no-print-directory PRESET=tsan all && \
	  tests/tsan.sh build/tsan '$(T)' '$(SEED)'; fi

fuzz:
	@tools/deps.sh fuzz
	@$(MAKE) --no-print-directory PRESET=fuzz all
	@tests/fuzz/run.sh build/fuzz '$(T)'

bench: all
	@$(BUILD)/ratplus bench machine $(ARGS)
	@$(BUILD)/ratplus bench train $(ARGS)

coverage:
	@tools/deps.sh test
	@$(MAKE) --no-print-directory PRESET=coverage all
	@find build/coverage -name '*.gcda' -delete
	@tests/run.sh build/coverage '$(T)' '$(SEED)'
	@tools/coverage.sh build/coverage

portable:
	@tools/deps.sh
	@$(MAKE) --no-print-directory PRESET=portable all
	@tools/portable.sh build/portable/ratplus build/ratplus-portable

install:
	@$(MAKE) --no-print-directory OPTIONS='$(OPTIONS) -DCMAKE_INSTALL_PREFIX=$(prefix)' all
	@DESTDIR='$(DESTDIR)' cmake --install $(BUILD) --prefix '$(prefix)'

format:
	@git ls-files '*.c' '*.h' '*.cc' | xargs clang-format -i

clean:
	@rm -rf build
