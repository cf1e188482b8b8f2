#!/bin/sh
# Train a network whose spatial filters are never learned: give them an initialisation, cut channels
# out, train all other weights while the filters are held still, evaluate; and look at how the
# filters are steered.
#
#   sh examples/fixed_filters.sh DATA.npz [METHOD] [FOLDER] [EPOCHS]
#
# DATA.npz holds x_train, y_train, x_test and y_test, as examples.zoo.train writes digits.npz.
set -eu
cd "$(dirname "$0")/.."
data=$1 method=${2:-ghaar} out=${3:-fixed} epochs=${4:-5}
network=examples/zoo/lenet5_digits.safetensors
factory=examples.zoo.networks:lenet5
fsurgeon=${FSURGEON:-fsurgeon}
mkdir -p "$out"

guide=
[ "$method" = guided-steer ] && guide="--guide $network"

printf '\n$ fsurgeon initialize | fsurgeon prune | fsurgeon tune --freeze spatial | fsurgeon eval\n'
# LeNet-5 has no normalisation, so the filters keep the scale of those that they replace.
$fsurgeon initialize "$network" --method "$method" $guide --match-scale --others reset \
    --factory "$factory" |
    $fsurgeon prune - --factory "$factory" --per-layer --sparsity 0.2 |
    $fsurgeon tune - --factory "$factory" --data "$data" --freeze spatial --epochs "$epochs" |
    tee "$out/fixed.safetensors" |
    $fsurgeon eval - --factory "$factory" --data "$data" --table

printf '\n$ fsurgeon explain\n'
$fsurgeon explain "$network" "$out/fixed.safetensors" --picture "$out/steering.png" --force --table
