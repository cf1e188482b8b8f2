"""A scene as JSON and texts of packed bytes, back again, and in a page of one file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import unescape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from filtersurgeon import __version__
from filtersurgeon.checkpoint.documents import parse_json
from filtersurgeon.errors import DataError
from filtersurgeon.plots.page import fill_page, script_data
from filtersurgeon.walk.layout import Feed, Place, Step, Way
from filtersurgeon.walk.quantise import FACTS, LEVELS, RULE, ZERO, Maps, pack, rectify, unpack
from filtersurgeon.walk.rules import FLAT, SAME, Link, Rule
from filtersurgeon.walk.scene import (
    SCHEMA,
    Guess,
    Limit,
    Made,
    NetworkScene,
    Panel,
    Scene,
    ScenePicture,
    Seen,
)
from filtersurgeon.walk.tour_record import read_record, tour_record
from filtersurgeon.walk.weights import Weights


@dataclass
class Blobs:
    """Packed bytes by number.

    Attributes:
        texts: see :func:`~filtersurgeon.walk.quantise.pack`.
    """

    texts: list[str] = field(default_factory=list)

    def add(self, values: np.ndarray) -> int:
        """Pack an array and give its number; other types than uint8 go as their bytes."""
        if values.dtype != np.uint8:
            # Bytes of the same significance stand together, which deflates better.
            kind = values.dtype.newbyteorder("<")
            plain = np.ascontiguousarray(values.astype(kind)).reshape(-1).view(np.uint8)
            values = np.ascontiguousarray(plain.reshape(-1, values.itemsize).T)
        self.texts.append(pack(values))
        return len(self.texts) - 1


def read_numbers(text: str, shape: Sequence[int], kind: str) -> np.ndarray:
    """Read an array of another type than bytes, as :meth:`Blobs.add` packed it."""
    dtype = np.dtype(kind)
    count = int(np.prod(shape))
    planes = unpack(text, (dtype.itemsize, count))
    return np.ascontiguousarray(planes.T).reshape(-1).view(dtype).reshape(shape)


def record(scene: Scene) -> tuple[dict[str, Any], list[str]]:
    """Write a scene as JSON that refers to packed bytes by their numbers.

    Returns:
        The JSON in the schema ``filtersurgeon.walk/1``, and the packed bytes.
    """
    blobs = Blobs()
    content = {
        "schema": SCHEMA,
        "version": __version__,
        "quantisation": {"rule": RULE, "zero": ZERO, "levels": LEVELS},
        "facts": list(FACTS),
        "limit": {
            "side": scene.limit.side,
            "channels": scene.limit.channels,
            "text": scene.limit.text,
        },
        "pictures": [picture_record(picture, blobs) for picture in scene.pictures],
        "networks": [_network(network, blobs) for network in scene.networks],
    }
    _add_whole_weights(scene, content, blobs)
    if scene.tour is not None:
        content["tour"] = tour_record(scene.tour, scene.networks)
    return content, blobs.texts


WHOLE_SHARE = 0.04
"""Layers with all their kernels may make a page larger by this part; the smallest come first."""
_SCRIPT = 600_000
"""About as many bytes of a page are its own script."""


def _add_whole_weights(scene: Scene, content: dict[str, Any], blobs: Blobs) -> None:
    """Add all kernels of the layers with the fewest, where the page has the maps that they read."""
    left = WHOLE_SHARE * (_SCRIPT + sum(map(len, blobs.texts)))
    found: list[tuple[int, Maps, dict[str, Any]]] = []
    for network, written in zip(scene.networks, content["networks"], strict=True):
        for panel, one in zip(network.panels, written["panels"], strict=True):
            if panel.weights and panel.weights.whole and _has_input(panel, network):
                whole = panel.weights.whole
                found.append((whole.values.size, whole, one["weights"]))
    for _, whole, weights in sorted(found, key=lambda one: one[0]):
        number = blobs.add(whole.values)
        left -= len(blobs.texts[number])
        if left < 0:
            del blobs.texts[number]
            return
        weights["whole"] = number


def _has_input(panel: Panel, network: NetworkScene) -> bool:
    known = panel.links and panel.links[0].how in (SAME, FLAT)
    if not known or not panel.rule or not panel.rule.how:
        return False
    number = panel.step.feeds[0].step
    shape = network.panels[number].shape
    return all(seen.maps[number].values.shape == shape for seen in network.seen)


def picture_record(picture: ScenePicture, blobs: Blobs) -> dict[str, Any]:
    """Write an image."""
    pixels = blobs.add(_planes(picture.pixels))
    return {"name": picture.name, "shape": list(picture.pixels.shape), "pixels": pixels}


def _planes(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _network(network: NetworkScene, blobs: Blobs) -> dict[str, Any]:
    return {
        "name": network.name,
        "architecture": network.architecture,
        "ranking": network.ranking,
        "notes": list(network.notes),
        "labels": list(network.labels),
        "classes": list(network.classes),
        "scores": network.scores,
        "panels": [_panel(panel, blobs) for panel in network.panels],
        "ways": [[w.source, w.target, [round(x, 2) for x in w.via], w.text] for w in network.ways],
        "seen": [seen_record(seen, network.panels, blobs) for seen in network.seen],
        "made": [
            [panel, unit, [made_record(one, blobs) for one in several]]
            for (panel, unit), several in sorted(network.made.items())
        ],
    }


def made_record(made: Made, blobs: Blobs) -> dict[str, Any]:
    """Write a picture of a channel."""
    pixels = blobs.add(_planes(made.pixels))
    return {
        "how": made.how, "text": made.text, "shape": list(made.pixels.shape), "pixels": pixels
    }  # fmt: skip


def _panel(panel: Panel, blobs: Blobs) -> dict[str, Any]:
    step, place = panel.step, panel.place
    return {
        "name": step.name,
        "module": step.module,
        "kind": step.kind,
        "text": step.text,
        "feeds": [[feed.step, list(feed.through)] for feed in step.feeds],
        "shape": list(panel.shape),
        "section": panel.section,
        "rank": place.rank,
        "columns": place.columns,
        **{key: round(getattr(place, key), 3) for key in ("x", "z", "width", "height")},
        "slots": None if panel.slots is None else list(panel.slots),
        "lost": panel.lost,
        "weights": panel.weights and _weights(panel.weights, blobs),
        "links": [_link(link, blobs) for link in panel.links],
        "rule": panel.rule and _rule(panel.rule, blobs),
    }


def _link(link: Link, blobs: Blobs) -> dict[str, Any]:
    return {"how": link.how, **_affine(link.affine, blobs)}


def _affine(values: np.ndarray | None, blobs: Blobs) -> dict[str, Any]:
    return {} if values is None else {"affine": [blobs.add(values), values.shape[1]]}


def _rule(rule: Rule, blobs: Blobs) -> dict[str, Any]:
    if not rule.how:
        return {"how": "", "why": rule.why}
    found: dict[str, Any] = {"how": rule.how}
    if rule.how in ("conv", "mean", "max"):
        found |= {key: list(getattr(rule, key)) for key in ("stride", "padding", "dilation")}
        found |= {"window": rule.window and list(rule.window), "divisor": rule.divisor}
    if rule.bias is not None:
        found["bias"] = blobs.add(rule.bias)
    return found | _affine(rule.affine, blobs)


def _weights(weights: Weights, blobs: Blobs) -> dict[str, Any]:
    found: dict[str, Any] = {
        "shape": list(weights.shape),
        "groups": weights.groups,
        "kept": weights.inputs.shape[1],
        "inputs": blobs.add(weights.inputs),
        "kernels": blobs.add(weights.kernels.values),
        "bound": blobs.add(weights.kernels.bound),
        "norms": blobs.add(weights.norms),
        "counts": list(weights.counts),
        "largest": weights.largest,
    }
    if weights.spectra is not None:
        found |= {"spectrum": weights.spectra.shape[1], "spectra": blobs.add(weights.spectra)}
    if weights.scores is not None and weights.places is not None:
        found |= {"scores": blobs.add(weights.scores), "places": blobs.add(weights.places)}
    return found


def seen_record(seen: Seen, panels: Sequence[Panel], blobs: Blobs) -> dict[str, Any]:
    """Write what a network does with one image.

    Maps that are those of other panels, joined or rectified, are marked as such.
    """
    maps = []
    for number, (panel, one) in enumerate(zip(panels, seen.maps, strict=True)):
        held = _find_borrowed(panel, one, seen.maps[:number]) or {"blob": blobs.add(one.values)}
        maps.append({"shape": list(one.values.shape), **held})
    return {
        "guesses": [[g.index, g.label, round(g.share, 6)] for g in seen.guesses],
        "maps": maps,
        "bound": blobs.add(np.concatenate([one.bound for one in seen.maps])),
        "facts": blobs.add(np.concatenate([one.facts for one in seen.maps])),
    }


def _find_borrowed(panel: Panel, maps: Maps, before: Sequence[Maps]) -> dict[str, Any] | None:
    feeds = panel.step.feeds
    if not feeds or any(feed.through for feed in feeds):
        return None
    numbers = [feed.step for feed in feeds]
    sources = [before[number] for number in numbers]
    if any(source.values.shape[1:] != maps.values.shape[1:] for source in sources):
        return None
    if panel.step.kind == "concat":
        bounds = np.concatenate([source.bound for source in sources])
        values = np.concatenate([source.values for source in sources])
        same = np.array_equal(bounds, maps.bound) and np.array_equal(values, maps.values)
        return {"joined": numbers} if same else None
    if len(sources) == 1 and np.array_equal(sources[0].bound, maps.bound):
        same = np.array_equal(rectify(sources[0]), maps.values)
        return {"rectified": numbers[0]} if same else None
    return None


def scene_of(content: Mapping[str, Any], texts: Sequence[str]) -> Scene:
    """Read what :func:`record` wrote."""
    limit = Limit(content["limit"]["side"], content["limit"]["channels"])
    pictures = tuple(ScenePicture(x["name"], _read_pixels(x, texts)) for x in content["pictures"])
    networks = tuple(_read_network(x, texts) for x in content["networks"])
    tour = read_record(content["tour"], networks) if "tour" in content else None
    return Scene(pictures, networks, limit, tour)


def _read_pixels(item: Mapping[str, Any], texts: Sequence[str]) -> np.ndarray:
    height, width, channels = item["shape"]
    return unpack(texts[item["pixels"]], (channels, height, width)).transpose(1, 2, 0)


def _read_network(content: Mapping[str, Any], texts: Sequence[str]) -> NetworkScene:
    made = {
        (panel, unit): [Made(x["how"], _read_pixels(x, texts), x["text"]) for x in several]
        for panel, unit, several in content["made"]
    }
    return NetworkScene(
        content["name"],
        content["architecture"],
        tuple(_read_panel(x, texts) for x in content["panels"]),
        tuple(Way(s, t, tuple(via), text) for s, t, via, text in content["ways"]),
        tuple(_read_seen(x, texts) for x in content["seen"]),
        content["ranking"],
        made,
        tuple(content["notes"]),
        tuple(content["labels"]),
        tuple(content["classes"]),
        content["scores"],
    )


def _read_panel(x: Mapping[str, Any], texts: Sequence[str]) -> Panel:
    feeds = tuple(Feed(number, tuple(through)) for number, through in x["feeds"])
    step = Step(x["name"], x["module"], x["kind"], x["text"], feeds)
    place = Place(x["rank"], x["x"], x["z"], x["width"], x["height"], x["columns"])
    channels, height, width = x["shape"]
    slots = None if x["slots"] is None else tuple(x["slots"])
    weights = x["weights"] and _read_weights(x["weights"], texts)
    return Panel(
        step, (channels, height, width), place, x["section"], weights, slots, x["lost"],
        tuple(Link(one["how"], _read_affine(one, texts)) for one in x["links"]),
        x["rule"] and _read_rule(x["rule"], channels, texts),
    )  # fmt: skip


def _read_affine(x: Mapping[str, Any], texts: Sequence[str]) -> np.ndarray | None:
    if "affine" not in x:
        return None
    blob, channels = x["affine"]
    return read_numbers(texts[blob], (2, channels), "<f4")


def _read_rule(x: Mapping[str, Any], channels: int, texts: Sequence[str]) -> Rule:
    pairs = {key: (x[key][0], x[key][1]) for key in ("stride", "padding", "dilation") if key in x}
    window = x.get("window")
    return Rule(
        x["how"],
        x.get("why", ""),
        window=(window[0], window[1]) if window else None,
        divisor=x.get("divisor", "inside"),
        bias=read_numbers(texts[x["bias"]], (channels,), "<f4") if "bias" in x else None,
        affine=_read_affine(x, texts),
        **pairs,
    )


def _read_weights(x: Mapping[str, Any], texts: Sequence[str]) -> Weights:
    filters, inputs, height, width = x["shape"]

    def numbers(key: str, kind: str, *shape: int) -> np.ndarray | None:
        return read_numbers(texts[x[key]], shape, kind) if key in x else None

    chosen = read_numbers(texts[x["inputs"]], (filters, x["kept"]), "<u2")
    values = unpack(texts[x["kernels"]], (filters, x["kept"] * height, width))
    bound = read_numbers(texts[x["bound"]], (filters,), "<f4")
    norms = read_numbers(texts[x["norms"]], (filters,), "<f4")
    return Weights(
        (filters, inputs, height, width), x["groups"], chosen, Maps(values, bound), norms,
        numbers("spectra", "<f4", filters, x.get("spectrum", 0)),
        numbers("scores", "<f4", filters), numbers("places", "<u2", filters),
        tuple(x["counts"]), x["largest"],
        Maps(unpack(texts[x["whole"]], (filters, inputs * height, width)), bound)
        if "whole" in x else None,
    )  # fmt: skip


def _read_seen(content: Mapping[str, Any], texts: Sequence[str]) -> Seen:
    shapes = [tuple(x["shape"]) for x in content["maps"]]
    total = sum(shape[0] for shape in shapes)
    bound = read_numbers(texts[content["bound"]], (total,), "<f4")
    facts = read_numbers(texts[content["facts"]], (total, len(FACTS)), "<f4")
    found: list[Maps] = []
    start = 0
    for shape, x in zip(shapes, content["maps"], strict=True):
        if "joined" in x:
            values = np.concatenate([found[number].values for number in x["joined"]])
        elif "rectified" in x:
            values = rectify(found[x["rectified"]])
        else:
            values = unpack(texts[x["blob"]], shape)
        end = start + shape[0]
        found.append(Maps(values, bound[start:end], facts[start:end]))
        start = end
    return Seen(tuple(found), tuple(Guess(*guess) for guess in content["guesses"]))


_DATA = re.compile(r'<script type="application/json" id="scene">(.*?)</script>', re.DOTALL)
_BLOB = re.compile(r'<script type="text/plain" class="blob">(.*?)</script>', re.DOTALL)


def client() -> str:
    """Give the script that runs in the browser, bundled from ``client/`` of the repository."""
    return files("filtersurgeon.walk").joinpath("client.js").read_text("utf-8")


def render(scene: Scene, server: Mapping[str, Any] | None = None) -> str:
    """Make the page of a scene.

    Args:
        scene: what is shown.
        server: what a page that is served may ask for; None for a page that asks for nothing.
    """
    content, texts = record(scene)
    if server is not None:
        content["server"] = dict(server)
    names = " and ".join(network.name for network in scene.networks)
    return fill_page(
        "walk.html",
        title=f"A walk through {names}",
        data=script_data(content),
        blobs=texts,
        script=client(),
        connect="'self'" if server is not None else "'none'",
    )


def read_walk(path: str | Path) -> Scene:
    """Read the scene in a page that :func:`~filtersurgeon.walk.walking.walk` wrote.

    Raises:
        DataError: it is no such page.

    Examples:
        >>> import filtersurgeon as fs
        >>> from PIL import Image
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> with TemporaryDirectory() as folder:
        ...     page, image = Path(folder, "walk.html"), Path(folder, "grey.png")
        ...     Image.new("RGB", (160, 160), "grey").save(image)
        ...     _ = fs.walk(checkpoint, page, [str(image)])
        ...     scene = fs.read_walk(page)
        >>> scene.networks[0].maps("conv1.0").shape
        (16, 80, 80)
    """
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError(f"{path}: cannot be read ({problem})") from None
    found = _DATA.search(text)
    try:
        content = parse_json(unescape(found[1])) if found else {}
        if content.get("schema") == SCHEMA:
            return scene_of(content, _BLOB.findall(text))
    except (ValueError, TypeError, LookupError, AttributeError) as problem:
        raise DataError(f"{path} is a damaged page of fsurgeon walk ({problem})") from None
    raise DataError(f"{path} is not a page of fsurgeon walk")
