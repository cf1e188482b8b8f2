"""The whole spine from Python: load, inspect, rank, replace, save, build, run.

Usage: python examples/python_api.py CHECKPOINT OUTPUT.safetensors
"""

import sys

import torch

import filtersurgeon as fs


def main(source: str, target: str) -> None:
    checkpoint = fs.load(source)
    inspection = fs.inspect(checkpoint)
    print(f"{len(inspection.layers)} convolutions, {inspection.spatial_share:.1%} spatial weights")

    ranking = fs.rank(checkpoint, "l2", layers=[inspection.layers[0].name])
    for name, layer in ranking.layers.items():
        print(f"{name}: filter {layer.order[0]} has the largest norm, {layer.order[-1]} the least")

    fs.save(fs.replace(checkpoint, bank="dog8"), target, force=True)
    before, after = fs.build(checkpoint), fs.build(fs.load(target))
    image = torch.randn((1, 3, 224, 224), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        difference = (after(image) - before(image)).norm() / before(image).norm()
    print(f"the output differs by {difference:.2f} of its norm")


if __name__ == "__main__":
    main(*sys.argv[1:])
