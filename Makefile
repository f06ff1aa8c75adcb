# What a developer types. Needs a Rust toolchain, a C compiler and make; each target brings the rest (.ci/ensure).

CARGO ?= cargo
# More arguments for the program or the tests: make demo ARGS="--jobs 5000", make test ARGS=private_redis
ARGS ?=
# Built for the tests besides the default: one build serves them all.
FEATURES ?= otel

.DEFAULT_GOAL := help
.PHONY: help demo test soak mutants lint fmt clippy docs lua lint-lua bench bench-once redis tmux

help: ## Shows this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 20

demo: redis ## 1,000 signed webhooks through a private Redis, gateway and workers; one worker is killed on the way
	$(CARGO) run --release --locked -- demo $(ARGS)

test: redis tmux ## Every test, against a Redis of its own, and the examples of the documentation
	$(CARGO) test --locked --features $(FEATURES) $(ARGS)

soak: redis ## Ten minutes of kills, freezes, cuts and outages, then every job accounted for (MILLSTREAM_SOAK_SECONDS, MILLSTREAM_SOAK_SEED)
	$(CARGO) test --release --locked --test soak -- --ignored --nocapture $(ARGS)

mutants: redis ## Seeds one fault after the other and sees that a test catches it; takes half an hour. MUTANT=reclaim: those so named
	$(CARGO) test --locked --test mutants -- --ignored --nocapture

lint: fmt clippy docs lua ## Formatting, clippy, documentation, Lua; warnings are errors

fmt:
	@.ci/ensure rust
	$(CARGO) fmt --check

clippy:
	@.ci/ensure rust
	$(CARGO) clippy --locked --all-targets --all-features -- -D warnings
	$(CARGO) clippy --locked --no-default-features --lib -- -D warnings

docs:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --all-features --lib

lua:
	@.ci/ensure luacheck
	.ci/lint-lua

lint-lua: lua ## The Lua scripts alone

# Measures, which takes minutes and a quiet machine; so tests leave the benches alone, and lint keeps them compiling.
bench: redis ## Measures latency and throughput
	$(CARGO) bench --locked --bench '*' -- $(ARGS)

bench-once: redis ## Runs every bench once, unmeasured, to see that it still works
	@if ls benches/*.rs >/dev/null 2>&1; then $(CARGO) test --locked --features $(FEATURES) --bench '*' -- --test; else echo "no benches"; fi

redis: ## Sees that there is a redis-server to start, and installs one if not
	@.ci/ensure redis

tmux: ## Sees that there is a tmux, the terminal of some tests, and installs it if not
	@.ci/ensure tmux
