#!/bin/sh
# Train a network with pre-defined edge and line filters from scratch, as Linse (2025, section 2.5.1)
# does: LAMB, learning rate 0.003 divided by ten three times at equal distances, weight decay 1,
# batches of 64, random crops and flips, 300 epochs.
#
#   sh examples/predefined.sh DATA [ARCHITECTURE] [FOLDER] [EPOCHS] [MORE OPTIONS OF TUNE...]
#
# DATA is whatever tune reads; ARCHITECTURE is timm:resnet18 unless said otherwise, or
# factory:MODULE:FUNCTION. The number of classes is that of DATA's network: add --classes N.
set -eu
data=$1 architecture=${2:-timm:resnet18} out=${3:-predefined} epochs=${4:-300}
[ $# -gt 4 ] && shift 4 || shift $#
fsurgeon=${FSURGEON:-fsurgeon}
mkdir -p "$out"

case $architecture in
    factory:*) begin= factory="--factory ${architecture#factory:}" ;;
    *) begin=$architecture factory= ;;
esac
printf '\n$ fsurgeon convert --module reduced-pfm\n'
# shellcheck disable=SC2086
$fsurgeon convert $begin $factory --untrained --module reduced-pfm --bank edge-line-16 \
    -o "$out/untrained.safetensors" --force

printf '\n$ fsurgeon tune --scratch\n'
# shellcheck disable=SC2086
$fsurgeon tune "$out/untrained.safetensors" $factory --scratch --data "$data" \
    --optimizer lamb --lr 0.003 -p weight_decay=1 -p schedule=step -p decays=3 \
    --batch-size 64 --epochs "$epochs" --augment -p color_jitter=0 \
    -o "$out/trained.safetensors" --force "$@"
