"""Recipes, and the plans that their steps make for a network."""

from filtersurgeon.recipe import apply, read_recipe
from fuzz.scratch import checkpoint, place


def corpus() -> list[bytes]:
    return [
        b"steps: [replace]\n",
        b"steps:\n- replace: {bank: dog8, layers: [dw], all_spatial: false}\n",
        b"steps:\n- initialize:\n    method: ghaar\n    seed: 3\n    layers: ['*', '!stem']\n"
        b"- replace:\n",
        b"# words\nsteps: &all\n- fabricate: {archetypes: 0.5, draw: dirichlet}\nother: *all\n",
    ]


def read(case: bytes) -> None:
    steps = [
        x for x in read_recipe(place("recipe.yaml", case)) if x.verb in ("replace", "initialize")
    ]
    edited = apply(checkpoint(), steps[:3])
    edited.metadata()
