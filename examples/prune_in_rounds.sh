#!/bin/sh
# Prune in rounds, and fine-tune between them with the original as teacher: each round removes a
# part of the multiply-accumulates, then training restores accuracy before the next round.
#
#   sh examples/prune_in_rounds.sh NETWORK DATA [FOLDER] [EPOCHS] [SHARES] [OPTIONS OF EVERY COMMAND...]
#
# DATA is whatever tune reads; labels are optional. EPOCHS is per round. SHARES are the parts of the
# original's multiply-accumulates that each round keeps, such as "0.85 0.7 0.5".
set -eu
network=$1 data=$2 out=${3:-rounds} epochs=${4:-5} shares=${5:-0.85 0.7 0.5}
[ $# -gt 5 ] && shift 5 || shift $#
fsurgeon=${FSURGEON:-fsurgeon}
mkdir -p "$out"

# A target is a share of its input, which is the network of the round before.
before=1 input=$network round=0
for share in $shares; do
    round=$((round + 1))
    target=$(awk "BEGIN { printf \"%.6f\", $share / $before }")
    printf '\n$ fsurgeon prune --target macs=%sx    (round %d: %s of the original)\n' \
        "$target" "$round" "$share"
    $fsurgeon prune "$input" --target "macs=${target}x" --per-layer --method l2 \
        --compensate least-squares --data "$data" -o "$out/pruned_$round.safetensors" --force "$@"
    printf '\n$ fsurgeon tune --teacher\n'
    $fsurgeon tune "$out/pruned_$round.safetensors" --teacher "$network" --data "$data" \
        --epochs "$epochs" -o "$out/tuned_$round.safetensors" --force "$@"
    before=$share input=$out/tuned_$round.safetensors
done
printf '\n$ fsurgeon compare\n'
$fsurgeon compare "$network" "$input" --random 8 --table "$@"
