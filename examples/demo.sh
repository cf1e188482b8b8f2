#!/bin/sh
# The main job on a real pretrained network: inspect, rank, replace, prune, join by pipes, draw.
set -eu
cd "$(dirname "$0")/.."
mkdir -p demo

show() {
    printf '\n$ %s\n' "$*"
    "$@"
}

python examples/demo_weights.py demo/net.safetensors
show fsurgeon bank list --table
show fsurgeon inspect demo/net.safetensors --layers '*conv_dw' --table
show fsurgeon rank demo/net.safetensors --method archetype --table
show fsurgeon replace demo/net.safetensors --bank dog8 --picture demo/before_after.png \
    -o demo/dog8.safetensors --force
cat <<'SHOWN'

$ fsurgeon rank demo/net.safetensors --annotate |
    fsurgeon replace --bank dog8 | fsurgeon inspect --layers conv_stem --table
SHOWN
fsurgeon rank demo/net.safetensors --annotate | fsurgeon replace --bank dog8 |
    fsurgeon inspect --layers conv_stem --table
show fsurgeon prune demo/net.safetensors --per-layer --sparsity 0.3 -o demo/pruned.safetensors --force
cat <<'SHOWN'

$ fsurgeon replace demo/net.safetensors --bank dog8 |
    fsurgeon prune --target params=0.5x --per-layer > demo/small.safetensors
SHOWN
fsurgeon replace demo/net.safetensors --bank dog8 |
    fsurgeon prune --target params=0.5x --per-layer > demo/small.safetensors
printf '\nThe kernels before and after are drawn in demo/before_after.png\n'
