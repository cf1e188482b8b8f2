// The whole network in a strip, from the image on the left to its output, with the camera's place.

import { kindColour } from "./colours";
import { zonesOf } from "./floor";
import type { PanelMesh } from "./panels";
import { element } from "./pixels";
import type { World } from "./world";

const MARGIN = 10; // pixels beside the network
const HEAD = 15; // pixels for the names of sections
const NEAR = 5; // metres before the first panel

export class MiniMap {
  private readonly canvas = element("canvas");
  private readonly camera = element("i");
  private readonly jump = element("select", { ariaLabel: "Go to a layer" });
  private readonly panels: PanelMesh[];
  private readonly bounds: { left: number; right: number; far: number };
  private marked: PanelMesh | null = null;

  constructor(
    box: HTMLElement, private readonly world: World,
    private readonly go: (panel: PanelMesh) => void, private readonly tell: (panel: PanelMesh | null, x: number, y: number) => void,
  ) {
    this.panels = world.buildings.flatMap(({ panels }) => panels);
    const records = this.panels.map(({ panel }) => panel);
    this.bounds = {
      left: Math.min(...records.map((p) => p.x - p.width / 2)),
      right: Math.max(...records.map((p) => p.x + p.width / 2)),
      far: Math.max(...records.map((p) => p.z)),
    };
    this.fillJump();
    const strip = element("div", { className: "strip" }, this.canvas, this.camera);
    box.append(strip, this.jump);
    this.listen();
    new ResizeObserver(() => this.draw()).observe(strip);
  }

  private fillJump(): void {
    this.jump.append(element("option", { textContent: "Go to…", value: "" }));
    for (const building of this.world.buildings) {
      const several = this.world.buildings.length > 1 ? `${building.record.name} · ` : "";
      let group = element("optgroup");
      for (const mesh of building.panels) {
        const label = `${several}${mesh.panel.section || "image"}`;
        if (group.label !== label) this.jump.append(group = element("optgroup", { label }));
        group.append(element("option", { textContent: mesh.panel.name, value: String(this.panels.indexOf(mesh)) }));
      }
    }
    this.jump.onchange = () => {
      const mesh = this.panels[Number(this.jump.value)];
      if (this.jump.value && mesh) this.go(mesh);
      this.jump.value = "";
      this.world.view.focus({ preventScroll: true });
    };
  }

  private listen(): void {
    const { canvas } = this;
    canvas.onclick = (event) => this.go(this.nearest(event));
    canvas.onpointermove = (event) => this.tell(this.nearest(event), event.clientX, event.clientY + 46);
    canvas.onpointerleave = () => this.tell(null, 0, 0);
  }

  private nearest(event: MouseEvent): PanelMesh {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let [best, least] = [this.panels[0], Infinity];
    for (const mesh of this.panels) {
      const [at, down] = this.place(mesh.panel.x, mesh.panel.z);
      const distance = (at - x) ** 2 * 4 + (down - y) ** 2;
      if (distance < least) [best, least] = [mesh, distance];
    }
    return best;
  }

  /** Where a point of the floor lies on the strip, in CSS pixels. */
  place(x: number, z: number): [number, number] {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const { left, right, far } = this.bounds;
    const along = (z + NEAR) / (far + NEAR);
    const tall = height - HEAD - 6;
    const scale = Math.min(tall / Math.max(1, right - left), tall / 6);
    return [MARGIN + along * (width - 2 * MARGIN), HEAD + tall / 2 + (x - (left + right) / 2) * scale];
  }

  /** The middle of a panel on the strip, in the window. */
  locate(mesh: PanelMesh): [number, number] {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = this.place(mesh.panel.x, mesh.panel.z);
    return [box.left + x, box.top + y];
  }

  draw(): void {
    const { canvas } = this;
    const { clientWidth: width, clientHeight: height } = canvas;
    if (!width) return;
    const ratio = Math.min(2, window.devicePixelRatio);
    [canvas.width, canvas.height] = [width * ratio, height * ratio];
    const pen = canvas.getContext("2d")!;
    pen.scale(ratio, ratio);
    this.drawZones(pen, height);
    const step = (width - 2 * MARGIN) / Math.max(1, ...this.panels.map(({ panel }) => panel.rank));
    const wide = Math.max(1, Math.min(9, step * 0.6));
    const [, top] = this.place(0, 0);
    const [, below] = this.place(1, 0);
    for (const mesh of this.panels) {
      const [x, y] = this.place(mesh.panel.x, mesh.panel.z);
      const tall = Math.max(3, mesh.panel.width * (below - top));
      pen.fillStyle = mesh === this.marked ? "#ffb547" : kindColour(mesh.panel.kind);
      pen.globalAlpha = mesh.hidden ? 0.25 : 1;
      const thick = mesh === this.marked ? Math.max(3, wide) : wide;
      pen.fillRect(x - thick / 2, y - tall / 2, thick, tall);
      if (mesh === this.marked) pen.fillRect(x - 0.5, HEAD, 1, height - HEAD);
    }
    pen.globalAlpha = 1;
    this.follow();
  }

  private drawZones(pen: CanvasRenderingContext2D, height: number): void {
    pen.font = '10.5px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';
    pen.textBaseline = "middle";
    let free = 0;
    zonesOf(this.world.buildings[0].record.panels).forEach((zone, at) => {
      const [from, to] = [this.place(0, zone.near)[0], this.place(0, zone.far)[0]];
      pen.fillStyle = at % 2 ? "rgba(148, 170, 205, .13)" : "rgba(148, 170, 205, .06)";
      pen.fillRect(from, HEAD, to - from, height - HEAD);
      const long = pen.measureText(zone.name).width;
      if (from < free || from + long > this.canvas.clientWidth) return;
      pen.fillStyle = "#93a1b5";
      pen.fillText(zone.name, from, HEAD / 2);
      free = from + long + 8;
    });
  }

  mark(panel: PanelMesh | null): void {
    if (panel === this.marked) return;
    this.marked = panel;
    this.draw();
  }

  /** Put the arrow where the camera is and looks; where it is off the strip, at its edge. */
  follow(): void {
    const { position, rotation } = this.world.camera;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const [x, y] = this.place(position.x, -position.z);
    const at = [Math.max(5, Math.min(width - 5, x)), Math.max(HEAD, Math.min(height - 5, y))];
    // The strip runs to the right where the network runs ahead.
    this.camera.style.transform = `translate(${at[0].toFixed(1)}px, ${at[1].toFixed(1)}px) rotate(${(-rotation.y).toFixed(3)}rad)`;
  }
}
