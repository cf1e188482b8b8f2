// window.walk: the walk for scripts and tests.

import * as THREE from "three";
import { className, sharesOf } from "./classes";
import { activations, weightsHistogram, type Histogram } from "./histograms";
import type { App } from "./main";
import { FACTS, valueOf } from "./maps";
import type { PanelMesh } from "./panels";
import { explain, type Explanation } from "./values";
import { verdict } from "./valueview";

const PACE = 20; // metres per second, as with Shift

export interface Walk {
  /** Settles when everything is shown. */
  ready: Promise<void>;
  /** Frames drawn so far. */
  readonly frames: number;
  /** Whether the camera is on its way somewhere. */
  readonly flying: boolean;
  /** Where the camera is, in metres: right, up, and away from the flow. */
  readonly camera: [number, number, number];
  readonly layers: string[][];
  readonly selection: { network: number; layer: string; channel: number } | null;
  /** Choose a channel; with a row and a column, also a pixel whose value is explained. */
  select(layer: string, channel: number, network?: number, pixel?: [number, number]): void;
  clear(): void;
  fly(layer: string, network?: number): void;
  jump(layer: string, network?: number): void;
  look(from: [number, number, number], to: [number, number, number]): void;
  /** Where the middle of a channel appears in the window, in CSS pixels. */
  locate(layer: string, channel: number, network?: number): [number, number];
  /** What lies at a place of the window; channel -1 is a gap. */
  pick(x: number, y: number): { network: number; layer: string; channel: number } | null;
  value(layer: string, channel: number, row: number, column: number, network?: number): number;
  /** How a value is made: what is read, what that adds up to, and what rounding allows. */
  explain(layer: string, channel: number, row: number, column: number, network?: number): Promise<Explanation & { text: string }>;
  /** The channels that lines lead from, the strongest (1) first. */
  readonly feeders: { layer: string; channel: number; strength: number }[];
  /** The name of the class that a channel stands for, or null. */
  className(layer: string, channel: number, network?: number): string | null;
  /** The classes by softmax of the scores in the page, best first; null without scores. */
  softmax(network?: number): { channel: number; name: string; share: number }[] | null;
  /** Counts of a layer's values, without those that are zero. */
  histogram(layer: string, what: "activations" | "weights", network?: number): Histogram | null;
  /** Where the image and its classes appear in the window: left, top, right, bottom in CSS pixels. */
  entrance(network?: number): [number, number, number, number];
  /** Where a layer lies on the strip of the whole network, in CSS pixels of the window. */
  onMap(layer: string, network?: number): [number, number];
  facts(layer: string, channel: number, network?: number): number[];
  hide(layer: string, hidden?: boolean, network?: number): void;
  image(number: number): Promise<void>;
  /** Walk along the network from its start for some seconds, 20 metres in each, and count the frames. */
  tour(seconds: number): Promise<{ frames: number; seconds: number }>;
}

export function scripting(app: App, ready: Promise<void>): Walk {
  const { world } = app;
  const find = (layer: string, network = 0): PanelMesh => {
    const panel = world.buildings[network]?.panels.find((one) => one.panel.name === layer);
    if (!panel) throw new RangeError(`no layer ${layer} in network ${network}`);
    return panel;
  };
  return {
    ready,
    get frames() { return world.frames; },
    get flying() { return world.controls.flying; },
    get camera() { return world.camera.position.toArray() as [number, number, number]; },
    layers: world.buildings.map(({ panels }) => panels.map(({ panel }) => panel.name)),
    get selection() {
      const one = app.selection;
      return one && { network: one.panel.network, layer: one.panel.panel.name, channel: one.channel };
    },
    select: (layer, channel, network, pixel) => app.select({
      panel: find(layer, network), channel, ...(pixel ? { pixel } : {}),
    }),
    clear: () => app.select(null),
    fly: (layer, network) => app.visit(find(layer, network)),
    jump: (layer, network) => app.visit(find(layer, network), true),
    look: (from, to) => world.controls.jump({
      position: new THREE.Vector3(...from), target: new THREE.Vector3(...to),
    }),
    locate: (layer, channel, network) => world.project(find(layer, network).point(channel)),
    pick: (x, y) => {
      const met = world.pick(x, y);
      return met?.hit
        ? { network: met.panel.network, layer: met.panel.panel.name, channel: met.hit.channel }
        : null;
    },
    value: (layer, channel, row, column, network) =>
      valueOf(find(layer, network).maps!, channel, row, column),
    explain: async (layer, channel, row, column, network = 0) => {
      const found = await explain(world.buildings[network], find(layer, network), channel, row, column, app.blobs);
      return { ...found, text: found.why || verdict(found) };
    },
    get feeders() {
      return world.lines.shown.map(({ panel, channel, strength }) => ({ layer: panel.panel.name, channel, strength }));
    },
    className: (layer, channel, network = 0) =>
      className(world.buildings[network], find(layer, network).number, channel),
    softmax: (network = 0) => sharesOf(world.buildings[network])?.shares
      .map(({ channel, name, share }) => ({ channel, name, share })) ?? null,
    histogram: (layer, what, network) => {
      const { maps, panel } = find(layer, network);
      if (what === "weights") return panel.weights && weightsHistogram(panel.weights);
      return maps && activations(maps);
    },
    entrance: (network = 0) => {
      const box = new THREE.Box3().setFromObject(world.buildings[network].entrance.group);
      const corners = [0, 1, 2, 3, 4, 5, 6, 7].map((at) => world.project(new THREE.Vector3(
        at & 1 ? box.max.x : box.min.x, at & 2 ? box.max.y : box.min.y, at & 4 ? box.max.z : box.min.z,
      )));
      const [xs, ys] = [0, 1].map((axis) => corners.map((corner) => corner[axis]));
      return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
    },
    onMap: (layer, network) => app.map.locate(find(layer, network)),
    facts: (layer, channel, network) => Array.from(
      find(layer, network).maps!.facts.subarray(channel * FACTS, (channel + 1) * FACTS)),
    hide: (layer, hidden = true, network) => app.hide(find(layer, network), hidden),
    image: (number) => app.show(number),
    tour: (seconds) => tour(app, seconds),
  };
}

async function tour(app: App, seconds: number): Promise<{ frames: number; seconds: number }> {
  const { world } = app;
  const far = Math.max(...world.buildings[0].panels.map(({ panel }) => panel.z));
  const { position, target } = world.start();
  const way = target.clone().sub(position);
  const before = world.frames;
  const begin = performance.now();
  return new Promise((resolve) => {
    const step = (): void => {
      const passed = (performance.now() - begin) / 1000;
      if (passed >= seconds) {
        resolve({ frames: world.frames - before, seconds: passed });
        return;
      }
      const at = position.clone();
      at.z -= Math.min(far, passed * PACE);
      world.controls.jump({ position: at, target: at.clone().add(way) });
      requestAnimationFrame(step);
    };
    step();
  });
}
