#!/bin/sh
# Replace a network's depthwise kernels by eight of them, then regain the accuracy while the
# kernels are held still but for one additive number each: replace, tune, eval, compare.
#
#   sh examples/regain.sh TRAIN.npz TEST.npz [FOLDER] [EPOCHS]
set -eu
cd "$(dirname "$0")/.."
train=$1 test=$2 out=${3:-regain} epochs=${4:-5}
network=examples/zoo/convnext_cifar10.safetensors
factory=examples.zoo.networks:convnext_small_images
mkdir -p "$out"

show() {
    printf '\n$ fsurgeon %s\n' "$*"
    ${FSURGEON:-fsurgeon} "$@"
}

show replace "$network" --bank dog8 -o "$out/replaced.safetensors" --force
show eval "$out/replaced.safetensors" --factory "$factory" --data "$test" --table
show tune "$out/replaced.safetensors" --factory "$factory" --data "$train" --freeze depthwise \
    --epochs "$epochs" -p clip_grad=1 --augment -p scale=0.5,1 -p ratio=0.8,1.25 \
    -p color_jitter=0 -o "$out/tuned.safetensors" --force
show eval "$out/tuned.safetensors" --factory "$factory" --data "$test" --table
show compare "$network" "$out/tuned.safetensors" --factory "$factory" --data "$test" \
    --picture "$out/both.png" --force --table
