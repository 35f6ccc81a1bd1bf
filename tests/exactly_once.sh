#!/usr/bin/env bash
# Shows that every sink holds what one uninterrupted run would have written. Everything below is a part of `cargo test` as well, in its short form.
#
#     tests/exactly_once.sh          about ten minutes: 40 deaths with Kafka and Elasticsearch
#     tests/exactly_once.sh long     about an hour and a half: 500 deaths, and the figures: start after a crash, cost of checkpoints, latency, memory
#
# On a slow machine WINDKESSEL_RATE (observations a second; 500) keeps input going until the last death.
set -euo pipefail
cd "$(dirname "$0")/.."
export WINDKESSEL_REQUIRE_SERVICES=1

step() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }

if [ "${1:-}" = long ]; then export WINDKESSEL_KILLS=${WINDKESSEL_KILLS:-500}; fi

step "the workers under a scheduler that picks the interleaving: 1,000 seeds"
cargo test --lib runtime::simulation
step "a loss of power at any moment; any bit of the log flipped; a checkpoint damaged"
cargo test --lib -- power damage
step "killed at every place and at random, stopped and overtaken, started twice; each of six guards taken away"
cargo test --test it crash::
step "several processes: killed, stopped, asked to end"
cargo test --test it cluster::
step "killed again and again with Kafka and Elasticsearch, every sink judged by the oracle"
cargo test --test services again_and_again_leaves -- --nocapture

if [ "${1:-}" = long ]; then
  step "what checkpoints cost, and a start after kill -9 with a million patients"
  cargo bench --bench end_to_end -- recovery
  step "from the broker to a searchable document, with a checkpoint every ten seconds"
  cargo bench --bench latency
  step "memory while Elasticsearch is dead for ten minutes"
  cargo bench --bench latency -- dead 10
fi
step "done"
