"""Pictures that are made while a walk is served: their lines, their limits, and what they show."""

from __future__ import annotations

import asyncio
import json
import time
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest
from workshop import PATIENCE

import filtersurgeon as fs
from filtersurgeon.errors import LayerError, OptionError
from filtersurgeon.walk.making import MOST_KEPT, Maker, Making, StoppedError, put_in_the_middle
from filtersurgeon.walk.quantise import unpack
from filtersurgeon.walk.scene import WalkSettings

pytest.importorskip("starlette")

MADE = {"made": {"how": "decoded", "pixels": 0, "id": 1}, "blobs": ["x"]}


class Slow:
    """Makes a picture step by step, until it is let go or stopped."""

    def __init__(self, problem=None, tells=True):
        self.go, self.ended = Event(), Event()
        self.problem, self.tells = problem, tells
        self.how = None

    def read(self, _query):
        return "wish"

    def make(self, _wish, progress):
        try:
            step = 0
            while not self.go.wait(0.01):
                step += 1
                if self.tells:
                    progress(step, 1_000_000)
            if self.problem:
                raise self.problem
            self.how = "made"
            return MADE
        except StoppedError:
            self.how = "stopped"
            raise
        finally:
            self.ended.set()


class Client:
    """Asks for a picture, without a network."""

    def __init__(self, app, **headers):
        self.leave = asyncio.Event()
        self.messages = []
        self.answered = asyncio.Event()
        names = {"host": "127.0.0.1:1", **{k.replace("_", "-"): v for k, v in headers.items()}}
        scope = {
            "type": "http", "method": "POST", "path": "/t/made", "query_string": b"",
            "headers": [(k.encode(), v.encode()) for k, v in names.items()],
        }  # fmt: skip
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self):
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message):
        self.messages.append(message)
        if message["type"] == "http.response.body":
            self.answered.set()

    async def end(self):
        await asyncio.wait_for(self.task, PATIENCE)
        return self.messages[0]["status"], self.text

    @property
    def text(self):
        return b"".join(m.get("body", b"") for m in self.messages).decode()

    @property
    def lines(self):
        return [json.loads(line) for line in self.text.splitlines()]


def _run(play, maker, seconds=PATIENCE):
    """Run a play with an application that makes pictures by a maker."""
    from filtersurgeon.walk.application import application

    app = application(SimpleNamespace(maker=maker, seconds=seconds), "", "t")
    try:
        asyncio.run(play(app))
    finally:
        maker.go.set()


def test_progress_comes_before_the_picture():
    maker = Slow()

    async def play(app):
        client = Client(app)
        await client.answered.wait()
        while client.lines[-1]["done"] < 3:
            await asyncio.sleep(0.01)
        maker.go.set()
        code, _ = await client.end()
        assert code == 200
        lines = client.lines
        assert lines[-1] == MADE
        steps = [line["done"] for line in lines[:-1]]
        assert steps == sorted(set(steps))
        assert lines[-2]["total"] == 1_000_000

    _run(play, maker)


def test_a_second_picture_waits_for_the_first():
    maker = Slow()

    async def play(app):
        first = Client(app)
        await first.answered.wait()
        code, text = await Client(app).end()
        assert code == 503
        assert text == "busy with another picture; wait until it is done, or cancel it"
        maker.go.set()
        assert (await first.end())[0] == 200
        third = Client(app)
        await third.end()
        assert third.lines[-1] == MADE

    _run(play, maker)


def test_the_making_ends_when_the_client_leaves():
    maker = Slow()

    async def play(app):
        client = Client(app)
        await client.answered.wait()
        client.leave.set()
        await client.end()
        assert await asyncio.to_thread(maker.ended.wait, PATIENCE)
        assert maker.how == "stopped"
        assert "problem" not in client.text
        # The place is free again.
        maker.go.set()
        while True:
            other = Client(app)
            if (await other.end())[0] == 200:
                break
            await asyncio.sleep(0.01)
        assert other.lines[-1] == MADE

    _run(play, maker)


@pytest.mark.parametrize("tells", [True, False])
def test_the_making_ends_when_its_time_is_over(tells):
    maker = Slow(tells=tells)

    async def play(app):
        client = Client(app)
        assert (await client.end())[0] == 200
        assert client.lines[-1] == {"problem": "making the picture takes too long; it was ended"}
        if tells:
            assert await asyncio.to_thread(maker.ended.wait, PATIENCE)
            assert maker.how == "stopped"
        else:  # what cannot be interrupted goes on, and nothing else is begun beside it
            assert (await Client(app).end())[0] == 503

    _run(play, maker, seconds=0.1)


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (LayerError("no such unit"), "no such unit"),
        (ValueError("secret"), "the network cannot be run (ValueError)"),
        (MemoryError(), "the network cannot be run (MemoryError)"),
    ],
)
def test_what_goes_wrong_is_the_last_line(problem, text):
    maker = Slow(problem)
    maker.go.set()

    async def play(app):
        client = Client(app)
        await client.end()
        assert client.lines[-1] == {"problem": text}

    _run(play, maker)


def test_other_pages_and_content_are_refused():
    maker = Slow()

    async def play(app):
        for origin in ("http://evil.example", "null", "https://127.0.0.1:1"):
            assert (await Client(app, origin=origin).end())[0] == 403
        assert (await Client(app, content_length="5").end())[0] == 413
        assert (await Client(app, transfer_encoding="chunked").end())[0] == 413
        assert (await Client(app, host="evil.example").end())[0] == 400
        maker.go.set()
        assert (await Client(app, origin="http://127.0.0.1:1", content_length="0").end())[0] == 200

    _run(play, maker)


def test_progress_is_taken_until_it_is_stopped():
    making = Making(PATIENCE)
    making(3, 9)
    assert (making.done, making.total, making.is_late) == (3, 9, False)
    making.stop()
    with pytest.raises(StoppedError):
        making(4, 9)
    late = Making(0.0)
    time.sleep(0.01)
    with pytest.raises(StoppedError):
        late(1, 2)


def test_an_image_is_put_in_the_middle():
    canvas = np.zeros((1, 4, 6))
    small = put_in_the_middle(np.ones((1, 2, 2)), canvas)
    assert small[0].tolist() == [[0] * 6, [0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0], [0] * 6]
    large = put_in_the_middle(np.arange(48.0).reshape(1, 8, 6), canvas)
    assert large[0].tolist() == np.arange(48).reshape(8, 6)[2:6].tolist()
    assert not canvas.any()


@pytest.fixture(scope="module")
def opened():
    from filtersurgeon.walk.walking import open_walk

    settings = WalkSettings(preprocess={"input_size": [3, 32, 32]})
    checkpoint = fs.untrained("timm:test_resnet")
    return checkpoint, settings, open_walk(checkpoint, (), None, settings, None, None)


@pytest.fixture
def maker(opened):
    _, settings, walk = opened
    return Maker(walk.checkpoints, walk.networks, walk.network, settings)


def _query(**words):
    return {"how": "decode", "network": "0", "panel": "1", "unit": "0", **words}


def test_words_of_a_wish_are_checked(maker):
    wish = maker.read(_query(unit="3"))
    assert (wish.how, wish.network, wish.layer, wish.unit) == ("decode", 0, "conv1.0", 3)
    for words in ({"how": "rm"}, {"unit": "-1"}, {"unit": "9" * 50}, {"panel": "x"}):
        with pytest.raises(OptionError):
            maker.read(_query(**words))
    for words in ({"unit": "16"}, {"panel": "999"}, {"panel": "0"}, {"network": "1"}):
        with pytest.raises(LayerError):
            maker.read(_query(**words))
    with pytest.raises(OptionError):
        maker.read({})


def test_pictures_are_those_of_the_verbs_and_go_back_in(opened, maker):
    checkpoint, settings, walk = opened
    told = []
    answer = maker.make(maker.read(_query(unit="3")), lambda *x: told.append(x))
    [decoded] = fs.decode(
        checkpoint, fs.DecodeSettings(["conv1.0"], "3"), preprocess=settings.preprocess
    )
    height, width, _ = answer["made"]["shape"]
    assert (height, width) == decoded.filters.shape[2:]
    pixels = unpack(answer["blobs"][answer["made"]["pixels"]], (3, height, width))
    bound = np.abs(decoded.filters[0]).max()
    assert np.abs(pixels / 255 - (decoded.filters[0] / (2 * bound) + 0.5)).max() < 0.5 / 255 + 1e-6
    assert told[-1] == (1, 1)
    # The decoded filter as an image: its extreme value is the brightest or darkest colour.
    picture = maker.picture(str(answer["made"]["id"]), "back")
    assert picture.name == "back"
    assert picture.tensor.shape == (3, 32, 32)
    assert picture.pixels.shape == (32, 32, 3)
    assert picture.pixels.min() == 0 or picture.pixels.max() == 255
    [seen] = walk.networks.see(picture)
    assert seen.maps[0].values.shape == (3, 32, 32)


def test_a_maximised_image_goes_back_in_as_it_is(opened, maker, monkeypatch):
    import filtersurgeon.see.maximizing

    checkpoint, settings, walk = opened
    image = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    shown = np.full((1, 32, 32, 3), 7, np.uint8)
    asked = []

    def maximize(given, how, **words):
        asked.append((given, how.seed, words["layers"], words["units"]))
        after = np.array([1.5])
        row = {"images": image, "pixels": shown, "after": after}
        return [SimpleNamespace(layer="conv1.0", units=(2,), **row)]

    monkeypatch.setattr(filtersurgeon.see.maximizing, "maximize", maximize)
    answer = maker.make(maker.read(_query(how="maximize", unit="2")), lambda *_: None)
    assert asked == [(checkpoint, settings.seed, ["conv1.0"], "2")]
    assert answer["made"]["text"] == "mean activation 1.5"
    picture = maker.picture(str(answer["made"]["id"]), "back")
    assert np.array_equal(picture.tensor.numpy(), image[0])
    [seen] = walk.networks.see(picture)
    values = seen.maps[0].dequantised()
    assert np.abs(values - image[0]).max() <= np.abs(image[0]).max() / 254 * 1.001


def test_few_pictures_are_kept(maker):
    from filtersurgeon.walk.scene import Made
    from filtersurgeon.walk.walk_networks import MadeImage

    image = MadeImage(
        "x", 0, Made("decoded", np.zeros((1, 1, 3), np.uint8), ""), np.ones((3, 5, 5))
    )
    for number in range(1, MOST_KEPT + 2):
        assert maker._keep(image) == number
    for gone in ("1", "99", "-1", "x", "", "1" * 40):
        with pytest.raises(OptionError, match="not kept any more"):
            maker.picture(gone, "")
    assert maker.picture("2", "").tensor.shape == (3, 32, 32)
