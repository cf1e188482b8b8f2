// A panel in space: one plane, one draw call, whatever the number of maps on it.

import * as THREE from "three";
import { makeAtlas } from "./atlas";
import { kindColour } from "./colours";
import type { Maps } from "./maps";
import { panelMaterial } from "./material";
import type { Panel } from "./scene";

export const BORDER = 0.06; // metres
export const RAISED = 0.34; // of a panel's foot above the floor

export const TURN = 0.75; // radians, towards the aisle on the right, from where the walk begins

export interface Hit {
  channel: number;
  /** -1 where the slot is a gap. */
  slot: number;
}

export class PanelMesh {
  readonly mesh: THREE.Mesh<THREE.PlaneGeometry, THREE.ShaderMaterial>;
  readonly columns: number;
  readonly rows: number;
  /** Slots in use: channels that are here, and those that were removed. */
  readonly slotCount: number;
  maps: Maps | null = null;
  private readonly channelOf: Int32Array;
  private readonly slotOf: Int32Array;
  private shown = 0;
  private putAway = false;
  private inTheWay = false;

  constructor(readonly network: number, readonly number: number, readonly panel: Panel) {
    const [channels] = panel.shape;
    this.slotCount = panel.slots ? channels + panel.lost : channels;
    this.columns = panel.columns;
    this.rows = Math.ceil(this.slotCount / this.columns);
    this.channelOf = new Int32Array(this.columns * this.rows).fill(-2);
    this.channelOf.fill(-1, 0, this.slotCount);
    this.slotOf = new Int32Array(channels);
    for (let channel = 0; channel < channels; channel++) {
      const slot = panel.slots ? panel.slots[channel] : channel;
      this.channelOf[slot] = channel;
      this.slotOf[channel] = slot;
    }
    const material = panelMaterial(kindColour(panel.kind));
    const [width, height] = [panel.width + 2 * BORDER, panel.height + 2 * BORDER];
    material.uniforms.border.value.set(BORDER / width, BORDER / height);
    material.uniforms.grid.value.set(this.columns, this.rows);
    this.mesh = new THREE.Mesh(new THREE.PlaneGeometry(width, height), material);
    this.mesh.position.set(panel.x, RAISED + height / 2, -panel.z);
    this.mesh.rotation.y = TURN;
    this.mesh.userData.panel = this;
    this.mesh.matrixAutoUpdate = false;
    this.mesh.updateMatrix();
  }

  get centre(): THREE.Vector3 {
    return this.mesh.position;
  }

  get top(): number {
    return RAISED + this.panel.height + 2 * BORDER;
  }

  get hidden(): boolean {
    return this.putAway;
  }

  set hidden(wanted: boolean) {
    this.putAway = wanted;
    this.mesh.visible = !this.putAway && !this.inTheWay;
  }

  /** Whether it is not drawn because it would hide another that is being looked at. */
  set ghost(wanted: boolean) {
    this.inTheWay = wanted;
    this.mesh.visible = !this.putAway && !this.inTheWay;
  }

  get angle(): number {
    return this.mesh.rotation.y;
  }

  /** Where it looks, and its right, as seen by someone who stands before it. */
  axes(): [THREE.Vector3, THREE.Vector3] {
    const up = new THREE.Vector3(0, 1, 0);
    return [new THREE.Vector3(0, 0, 1).applyAxisAngle(up, this.angle),
      new THREE.Vector3(1, 0, 0).applyAxisAngle(up, this.angle)];
  }

  /** A point of its width, at the height of its middle. */
  along(by: number): THREE.Vector3 {
    return this.centre.clone().addScaledVector(this.axes()[1], by);
  }

  show(maps: Maps, mostTexels: number): void {
    const { uniforms } = this.mesh.material;
    const atlas = makeAtlas(maps, mostTexels);
    (uniforms.atlas.value as THREE.Texture | null)?.dispose();
    uniforms.atlas.value = atlas.texture;
    uniforms.tiles.value.set(atlas.columns, atlas.rows);
    uniforms.tile.value.set(...atlas.tile);
    uniforms.fill.value.set(...atlas.fill);
    uniforms.levels.value = atlas.levels;
    uniforms.single.value = maps.width * maps.height === 1 ? 1 : 0;
    this.maps = maps;
    this.shown = maps.channels;
    this.writeSlots(maps.bound);
    uniforms.ready.value = 1;
  }

  /** Paint the three channels of an image as its red, green and blue light. */
  showPhoto(canvas: HTMLCanvasElement): void {
    if (this.panel.kind !== "input" || this.panel.shape[0] !== 3) return;
    const { uniforms } = this.mesh.material;
    (uniforms.photo.value as THREE.Texture | null)?.dispose();
    uniforms.photo.value = new THREE.CanvasTexture(canvas);
    uniforms.coloured.value = 1;
  }

  private writeSlots(bound: Float32Array): void {
    const { uniforms } = this.mesh.material;
    const strongest = bound.reduce((most, one) => Math.max(most, one), 0) || 1;
    const table = new Float32Array(this.channelOf.length * 2);
    this.channelOf.forEach((channel, slot) => {
      const here = channel >= 0 && channel < this.shown;
      table[slot * 2] = here ? channel : channel >= 0 ? -2 : channel;
      table[slot * 2 + 1] = here ? bound[channel] / strongest : 0;
    });
    (uniforms.slots.value as THREE.Texture | null)?.dispose();
    const texture = new THREE.DataTexture(
      table, this.columns, this.rows, THREE.RGFormat, THREE.FloatType,
    );
    texture.needsUpdate = true;
    uniforms.slots.value = texture;
  }

  mark(picked: number, pointed: number): void {
    const slot = (channel: number): number => (channel < 0 ? -1 : this.slotOf[channel]);
    this.mesh.material.uniforms.marked.value.set(slot(picked), slot(pointed));
  }

  /** Which channel lies at a point of the panel, given in the plane's own coordinates (0 to 1). */
  at(uv: THREE.Vector2): Hit | null {
    const border = this.mesh.material.uniforms.border.value as THREE.Vector2;
    const x = (uv.x - border.x) / (1 - 2 * border.x);
    const y = 1 - (uv.y - border.y) / (1 - 2 * border.y);
    if (x < 0 || y < 0 || x >= 1 || y >= 1) return null;
    const slot = Math.floor(y * this.rows) * this.columns + Math.floor(x * this.columns);
    const channel = this.channelOf[slot];
    return channel < -1 ? null : { channel, slot };
  }

  /** The middle of a channel's map in the world. */
  point(channel: number): THREE.Vector3 {
    const slot = this.slotOf[channel];
    const { width, height } = this.panel;
    const x = ((slot % this.columns) + 0.5) / this.columns - 0.5;
    const y = 0.5 - (Math.floor(slot / this.columns) + 0.5) / this.rows;
    return new THREE.Vector3(x * width, y * height, 0).applyMatrix4(this.mesh.matrixWorld);
  }

  /** The channel of this panel at a slot; -1 for a gap. */
  channelAt(slot: number): number {
    return this.channelOf[slot] ?? -1;
  }

  slot(channel: number): number {
    return this.slotOf[channel];
  }
}
