// window.walk: the walk for scripts and tests.

import * as THREE from "three";
import type { App } from "./main";
import { FACTS, valueOf } from "./maps";
import type { PanelMesh } from "./panels";

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
  select(layer: string, channel: number, network?: number): void;
  clear(): void;
  fly(layer: string, network?: number): void;
  jump(layer: string, network?: number): void;
  look(from: [number, number, number], to: [number, number, number]): void;
  /** Where the middle of a channel appears in the window, in CSS pixels. */
  locate(layer: string, channel: number, network?: number): [number, number];
  /** What lies at a place of the window; channel -1 is a gap. */
  pick(x: number, y: number): { network: number; layer: string; channel: number } | null;
  value(layer: string, channel: number, row: number, column: number, network?: number): number;
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
    select: (layer, channel, network) => app.select({ panel: find(layer, network), channel }),
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
