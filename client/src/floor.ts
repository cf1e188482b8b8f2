// The floor: the ways between panels, the sections that they belong to, and what is written there.

import * as THREE from "three";
import { kindColour } from "./colours";
import type { NetworkRecord, Panel } from "./scene";
import { TURN } from "./panels";
import { Signs, writing } from "./text";

const STEPS = 8;
const HALF_WIDTH = 0.045;
const APART = 1.3;

/** All ways of a network as one strip per piece between two ranks. */
export function makeWays(network: NetworkRecord): THREE.Mesh {
  const positions: number[] = [];
  const colours: number[] = [];
  const indices: number[] = [];
  const known = new Set<string>();
  const { panels } = network;
  const spacing = panels.length > 1 ? Math.max(...panels.map((p) => p.z)) /
    Math.max(1, ...panels.map((p) => p.rank)) : 1;
  for (const [source, target, via] of network.ways) {
    const from = panels[source];
    const points = [from.x, ...via, panels[target].x].map((x, at) =>
      new THREE.Vector2(x, (from.rank + at) * spacing));
    const colour = new THREE.Color(kindColour(from.kind)).lerp(new THREE.Color("#1a2436"), 0.35);
    for (let at = 1; at < points.length; at++) {
      const [one, two] = [points[at - 1], points[at]];
      const key = `${one.x.toFixed(2)},${one.y.toFixed(2)},${two.x.toFixed(2)}`;
      if (known.has(key)) continue;
      known.add(key);
      strip(one, two, colour, positions, colours, indices);
    }
  }
  const geometry = new THREE.BufferGeometry();
  geometry.setAttribute("position", new THREE.Float32BufferAttribute(positions, 3));
  geometry.setAttribute("color", new THREE.Float32BufferAttribute(colours, 3));
  geometry.setIndex(indices);
  const material = new THREE.MeshBasicMaterial({ vertexColors: true, side: THREE.DoubleSide });
  return new THREE.Mesh(geometry, material);
}

function strip(
  one: THREE.Vector2, two: THREE.Vector2, colour: THREE.Color,
  positions: number[], colours: number[], indices: number[],
): void {
  const straight = Math.abs(one.x - two.x) < 0.01;
  const count = straight ? 1 : STEPS;
  const start = positions.length / 3;
  for (let at = 0; at <= count; at++) {
    const share = at / count;
    const eased = share * share * (3 - 2 * share);
    const x = one.x + (two.x - one.x) * eased;
    const z = -(one.y + (two.y - one.y) * share);
    // The strip keeps its width where it runs aslant.
    const slope = (6 * share * (1 - share) * (two.x - one.x)) / (two.y - one.y);
    const half = HALF_WIDTH * Math.sqrt(1 + slope * slope);
    positions.push(x - half, 0.02, z, x + half, 0.02, z);
    colours.push(colour.r, colour.g, colour.b, colour.r, colour.g, colour.b);
    if (at) {
      const base = start + 2 * at;
      indices.push(base - 2, base - 1, base, base, base - 1, base + 1);
    }
  }
}

interface Zone {
  name: string;
  left: number;
  right: number;
  near: number;
  far: number;
}

export function zonesOf(panels: Panel[]): Zone[] {
  const zones = new Map<string, Zone>();
  for (const panel of panels) {
    if (!panel.section) continue;
    const zone = zones.get(panel.section) ?? {
      name: panel.section, left: Infinity, right: -Infinity, near: Infinity, far: -Infinity,
    };
    zone.left = Math.min(zone.left, panel.x - panel.width / 2 - 0.5);
    zone.right = Math.max(zone.right, panel.x + panel.width / 2 + 0.5);
    zone.near = Math.min(zone.near, panel.z - 1.1);
    zone.far = Math.max(zone.far, panel.z + 1.1);
    zones.set(panel.section, zone);
  }
  return [...zones.values()];
}

export function makeZones(panels: Panel[], signs: Signs): THREE.Group {
  const group = new THREE.Group();
  zonesOf(panels).forEach((zone, at) => {
    const [width, depth] = [zone.right - zone.left, zone.far - zone.near];
    const tone = new THREE.Color(at % 2 ? "#18233a" : "#131c2f");
    const floor = new THREE.Mesh(
      new THREE.PlaneGeometry(width, depth),
      new THREE.MeshBasicMaterial({ color: tone }),
    );
    floor.rotation.x = -Math.PI / 2;
    floor.position.set((zone.left + zone.right) / 2, 0, -(zone.near + zone.far) / 2);
    group.add(floor);
    const corner = new THREE.Vector3(zone.right + 0.3, 0.03, -zone.near - 0.5);
    signs.add(corner, 120, () => {
      const text = writing([{ text: zone.name, size: 84, colour: "#c3d0e4", weight: 650 }], 0.62);
      text.rotation.set(-Math.PI / 2, 0, TURN);
      text.position.copy(corner);
      return text;
    });
  });
  return group;
}

/** What happens on the way to a panel, written on the floor before it. */
export function addWayTexts(network: NetworkRecord, signs: Signs): void {
  const { panels } = network;
  const written = new Map<number, number[]>();
  for (const [source, target, via, text] of network.ways) {
    const [from, to] = [panels[source], panels[target]];
    const lane = via.length ? via[via.length - 1] : from.x;
    const others = written.get(target) ?? [];
    // Of lanes that run close together, such as into a long concatenation, one has a text.
    if (others.some((other) => Math.abs(other - lane) < APART)) continue;
    written.set(target, [...others, lane]);
    const last = via.length ? via[via.length - 1] : from.x;
    const at = new THREE.Vector3(last + (to.x - last) * 0.5 + 0.14, 0.04, -(to.z - 1.45));
    const shape = from.shape.join("×");
    signs.add(at, 16, () => {
      const plane = writing(
        [
          { text: shape, size: 40, colour: "#8fa0b8", weight: 500 },
          ...(text ? [{ text, size: 40, colour: "#dbe4f2", weight: 500 }] : []),
        ],
        0.36,
      );
      plane.rotation.set(-Math.PI / 2, 0, TURN);
      plane.position.copy(at);
      return plane;
    });
  }
}
