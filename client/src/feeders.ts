// Lines to the channels that feed a channel, the strongest first.

import * as THREE from "three";
import { norm, readKernels } from "./kernels";
import type { PanelMesh } from "./panels";
import type { Selection } from "./selection";
import type { Explanation } from "./values";
import type { Building } from "./world";

const MOST = 12;
const PIECES = 16;

export interface Feeder {
  panel: PanelMesh;
  channel: number;
  /** 1 for the strongest of the lines. */
  strength: number;
}

/** The channels that a channel is made of, by what they add to a value, or by their kernels' norms. */
export async function feedersOf(
  building: Building, { panel: mesh, channel }: Selection, blobs: string[], found: Explanation | null,
): Promise<Feeder[]> {
  const { panel } = mesh;
  const { weights } = panel;
  const made = found && found.how === "conv" && !found.why
    ? found.terms.map((term): Feeder => ({
        panel: building.panels[term.panel], channel: term.channel, strength: Math.abs(term.sum),
      }))
    : weights ? await byNorm(building, mesh, channel, blobs) : likewise(building, mesh, channel);
  const best = made.filter(({ strength }) => strength > 0).sort((a, b) => b.strength - a.strength).slice(0, MOST);
  const most = best[0]?.strength ?? 1;
  return best.map((one) => ({ ...one, strength: one.strength / most }));
}

async function byNorm(building: Building, { panel }: PanelMesh, channel: number, blobs: string[]): Promise<Feeder[]> {
  const how = panel.links[0]?.how;
  if (!how) return [];
  const source = building.panels[panel.feeds[0][0]];
  const [filters, inputs] = panel.weights!.shape;
  const [, height, width] = source.panel.shape;
  const group = Math.floor(channel / (filters / panel.weights!.groups)) * inputs;
  const kernels = await readKernels(panel.weights!, blobs);
  const squares = new Map<number, number>();
  for (const input of kernels.inputs(channel)) {
    const read = how === "flat" ? Math.floor(input / (height * width)) : group + input;
    squares.set(read, (squares.get(read) ?? 0) + norm(kernels.kernel(channel, input)) ** 2);
  }
  return [...squares].map(([read, square]) => ({ panel: source, channel: read, strength: Math.sqrt(square) }));
}

/** A layer without weights reads the same channel of what feeds it, or one of several in a row. */
function likewise(building: Building, { panel }: PanelMesh, channel: number): Feeder[] {
  const sources = panel.feeds.map(([number]) => building.panels[number]);
  if (panel.kind === "concat") {
    let start = 0;
    for (const [at, source] of sources.entries()) {
      const [channels] = source.panel.shape;
      if (!panel.links[at]?.how) return [];
      if (channel < start + channels) return [{ panel: source, channel: channel - start, strength: 1 }];
      start += channels;
    }
    return [];
  }
  const alike = sources.filter((source, at) =>
    panel.links[at]?.how && panel.links[at].how !== "flat" && source.panel.shape[0] === panel.shape[0]);
  return panel.kind === "other" || panel.kind === "matmul" ? []
    : alike.map((source) => ({ panel: source, channel, strength: 1 }));
}

export class Lines {
  private lines: THREE.LineSegments | null = null;
  shown: Feeder[] = [];

  constructor(private readonly scene: THREE.Scene) {}

  clear(): void {
    this.shown = [];
    if (!this.lines) return;
    this.scene.remove(this.lines);
    this.lines.geometry.dispose();
    (this.lines.material as THREE.Material).dispose();
    this.lines = null;
  }

  show(to: Selection, feeders: Feeder[]): void {
    this.clear();
    this.shown = feeders;
    if (!feeders.length) return;
    const [positions, colours]: [number[], number[]] = [[], []];
    const end = to.panel.point(to.channel);
    for (const { panel, channel, strength } of feeders) {
      const start = panel.point(channel);
      const middle = start.clone().lerp(end, 0.5);
      middle.y += 0.25 + 0.12 * start.distanceTo(end);
      const curve = new THREE.QuadraticBezierCurve3(start, middle, end).getPoints(PIECES);
      for (let at = 0; at < PIECES; at++) {
        positions.push(...curve[at].toArray(), ...curve[at + 1].toArray());
        const alpha = 0.15 + 0.85 * strength;
        colours.push(1, 0.71, 0.28, alpha, 1, 0.71, 0.28, alpha);
      }
    }
    const geometry = new THREE.BufferGeometry();
    geometry.setAttribute("position", new THREE.Float32BufferAttribute(positions, 3));
    geometry.setAttribute("color", new THREE.Float32BufferAttribute(colours, 4));
    // Drawn over panels, so that a line can be followed from end to end.
    const material = new THREE.LineBasicMaterial({
      vertexColors: true, transparent: true, depthTest: false, depthWrite: false,
    });
    this.lines = new THREE.LineSegments(geometry, material);
    this.lines.renderOrder = 5;
    this.scene.add(this.lines);
  }
}
