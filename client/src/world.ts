// The world: what is drawn, when it is drawn, and what lies under the pointer.

import * as THREE from "three";
import { Controls, type Pose } from "./controls";
import { Entrance } from "./entrance";
import { Lines } from "./feeders";
import { addWayTexts, makeWays, makeZones } from "./floor";
import { FOG, useScale } from "./material";
import type { Maps } from "./maps";
import { PanelMesh, TURN, type Hit } from "./panels";
import type { NetworkRecord } from "./scene";
import { Signs, writing } from "./text";

const SLOW = 55; // milliseconds of a frame while moving, above which pixels are saved
const FEWEST_PIXELS = 0.5;
const LIST = 288; // pixels of the list of layers and its margins
const DETAILS = 344; // of what is told of a channel

export interface Building {
  record: NetworkRecord;
  panels: PanelMesh[];
  entrance: Entrance;
}

export class World {
  readonly renderer: THREE.WebGLRenderer;
  readonly scene = new THREE.Scene();
  readonly camera = new THREE.PerspectiveCamera(55, 1, 0.05, 212);
  readonly rig = new THREE.Group();
  readonly controls: Controls;
  readonly buildings: Building[] = [];
  readonly software: boolean;
  onFrame = (): void => {};
  frames = 0;
  readonly lines: Lines;
  private readonly signs: Signs;
  private readonly ray = new THREE.Raycaster();
  private readonly fullRatio: number;
  private ratio: number;
  private pending = 0;
  private last = 0;
  private pace = 0;
  private judged = 0;
  private resting = 0;
  private arrived = 0;
  private focus: { eye: THREE.Vector3 } | null = null;

  constructor(readonly view: HTMLCanvasElement) {
    this.software = isSoftware();
    this.renderer = new THREE.WebGLRenderer({
      canvas: view, antialias: !this.software, powerPreference: "high-performance",
    });
    this.fullRatio = this.ratio = this.software ? 1 : Math.min(2, window.devicePixelRatio);
    this.renderer.setClearColor(new THREE.Color().copy(FOG).convertSRGBToLinear());
    this.scene.fog = new THREE.Fog(new THREE.Color().copy(FOG).convertSRGBToLinear(), 70, 210);
    this.rig.add(this.camera);
    this.scene.add(this.rig);
    this.signs = new Signs(this.scene);
    this.lines = new Lines(this.scene);
    this.controls = new Controls(this.camera, view);
    this.controls.onMove = () => this.invalidate();
    this.controls.rayOf = (x, y) => this.aim(x, y).ray.direction.clone();
    useScale("signed");
    window.addEventListener("resize", () => this.resize());
    view.addEventListener("webglcontextlost", (event) => event.preventDefault());
    view.addEventListener("webglcontextrestored", () => location.reload());
    this.resize();
  }

  build(records: NetworkRecord[]): void {
    records.forEach((record, network) => {
      const panels = record.panels.map((panel, at) => new PanelMesh(network, at, panel));
      this.scene.add(makeZones(record.panels, this.signs), makeWays(record));
      for (const panel of panels) {
        this.scene.add(panel.mesh);
        this.addTitle(panel);
      }
      addWayTexts(record, this.signs);
      const entrance = new Entrance(record.panels[0]);
      this.scene.add(entrance.group);
      if (records.length > 1) this.addName(record);
      this.buildings.push({ record, panels, entrance });
    });
    const all = this.buildings.flatMap((building) => building.panels.map(({ panel }) => panel));
    this.controls.ground = {
      left: Math.min(...all.map((p) => p.x)) - 40, right: Math.max(...all.map((p) => p.x)) + 40,
      near: 45, far: -Math.max(...all.map((p) => p.z)) - 25,
    };
    this.controls.jump(this.start());
  }

  private addTitle(mesh: PanelMesh): void {
    const { panel } = mesh;
    const at = new THREE.Vector3(panel.x - panel.width / 2, mesh.top + 0.24, -panel.z);
    this.signs.add(at, 22, () => {
      const lost = panel.lost ? `, ${panel.lost} removed` : "";
      const title = writing(
        [
          { text: panel.name, size: 46, colour: "#eef3fb", weight: 650 },
          { text: `${panel.text} · ${panel.shape.join("×")}${lost}`, size: 37, colour: "#9fb0c8" },
        ],
        0.34,
      );
      title.position.copy(mesh.along(-panel.width / 2)).setY(at.y);
      title.rotation.y = mesh.angle;
      return title;
    }, () => mesh.mesh.visible);
  }

  private addName(record: NetworkRecord): void {
    const first = record.panels[0];
    const at = new THREE.Vector3(first.x - 1.2, 6.3, -first.z + 3.4 + 1.1);
    this.signs.add(at, 90, () => {
      const name = writing([
        { text: record.name, size: 64, colour: "#ffffff", weight: 650 },
        { text: record.architecture ?? "", size: 44, colour: "#9fb0c8" },
      ], 0.62);
      name.position.copy(at);
      name.rotation.y = TURN;
      return name;
    });
  }

  start(): Pose {
    const first = this.buildings.map(({ record }) => record.panels[0].x);
    const middle = (Math.min(...first) + Math.max(...first)) / 2;
    const wide = Math.max(...first) - Math.min(...first);
    if (this.camera.aspect < 0.8) {
      // A window that is higher than wide sees the image, its classes and the first layers behind.
      return {
        position: new THREE.Vector3(middle + 6.3 + wide * 0.9, 5.4, 15.6 + wide * 1.6),
        target: new THREE.Vector3(middle + 0.1, 2.4, 1.5),
      };
    }
    return {
      position: new THREE.Vector3(middle + 12 + wide * 0.6, 5 + wide * 0.22, 3.2 + wide * 0.6),
      target: new THREE.Vector3(middle - 1.9 + wide * 0.12, 1.75, -4 - wide * 0.15),
    };
  }

  show(network: number, panel: number, maps: Maps): void {
    const most = this.renderer.capabilities.maxTextureSize;
    this.buildings[network].panels[panel].show(maps, most);
    // Drawing every panel as it arrives would take longer than decoding them all.
    this.arrived ||= window.setTimeout(() => {
      this.arrived = 0;
      this.invalidate();
    }, this.software ? 900 : 200);
  }

  /** Draw once more, soon. */
  invalidate(): void {
    if (this.renderer.xr.isPresenting || this.pending) return;
    this.pending = requestAnimationFrame((now) => this.frame(now));
  }

  private frame(now: number): void {
    this.pending = 0;
    const gap = now - this.last;
    this.last = now;
    const moved = this.controls.update(now, gap < 500 ? gap / 1000 : 0.016);
    if (this.controls.moving || moved) this.adapt(now, gap);
    this.clearGhosts();
    const more = this.signs.update(this.camera.position, this.controls.moving || moved);
    this.draw();
    if (this.controls.moving || more) this.invalidate();
    else this.restLater();
  }

  draw(): void {
    this.renderer.render(this.scene, this.camera);
    this.frames++;
    this.onFrame();
  }

  /** Save pixels while frames come too slowly. */
  private adapt(now: number, gap: number): void {
    window.clearTimeout(this.resting);
    if (gap > 400) return; // it rested in between
    this.pace = this.pace ? 0.8 * this.pace + 0.2 * gap : gap;
    if (now - this.judged < 600) return;
    this.judged = now;
    if (this.pace > SLOW && this.ratio > FEWEST_PIXELS * this.fullRatio) {
      this.setRatio(Math.max(FEWEST_PIXELS * this.fullRatio, this.ratio * 0.8));
    } else if (this.pace < SLOW / 3 && this.ratio < this.fullRatio) {
      this.setRatio(Math.min(this.fullRatio, this.ratio * 1.15));
    }
  }

  /** Once it stands still, draw with all pixels. */
  private restLater(): void {
    window.clearTimeout(this.resting);
    if (this.ratio === this.fullRatio) return;
    this.resting = window.setTimeout(() => {
      if (this.controls.moving) return;
      const before = this.ratio;
      this.setRatio(this.fullRatio);
      this.draw();
      this.ratio = before;
      this.judged = 0;
    }, 250);
  }

  private setRatio(ratio: number): void {
    this.ratio = ratio;
    this.renderer.setPixelRatio(ratio);
  }

  private resize(): void {
    const [width, height] = [window.innerWidth, window.innerHeight];
    this.renderer.setPixelRatio(this.ratio);
    this.renderer.setSize(width, height, false);
    this.camera.aspect = width / Math.max(1, height);
    // The middle of the view is the middle of what the list leaves free.
    this.camera.setViewOffset(width, height, -this.covered() / 2, 0, width, height);
    this.camera.updateProjectionMatrix();
    this.invalidate();
  }

  /** Pixels at the left that the list of layers covers. */
  private covered(): number {
    return window.innerWidth > 760 && window.innerHeight > 520 ? LIST : 0;
  }

  /** Pixels that are covered at the top and at the bottom; the details may be beside the view. */
  hiddenBands = (_beside: boolean): [number, number] => [0, 0];

  private aim(x: number, y: number): THREE.Raycaster {
    const box = this.view.getBoundingClientRect();
    const place = new THREE.Vector2(
      ((x - box.left) / box.width) * 2 - 1, 1 - ((y - box.top) / box.height) * 2,
    );
    this.camera.updateMatrixWorld();
    this.ray.setFromCamera(place, this.camera);
    return this.ray;
  }

  /** The panel and slot under a place of the screen, or on a given ray. */
  pick(x: number, y: number): { panel: PanelMesh; hit: Hit | null } | null {
    return this.meet(this.aim(x, y));
  }

  meet(ray: THREE.Raycaster): { panel: PanelMesh; hit: Hit | null } | null {
    const meshes = this.buildings.flatMap(({ panels }) =>
      panels.filter((panel) => panel.mesh.visible).map((panel) => panel.mesh));
    const found = ray.intersectObjects(meshes, false)[0];
    if (!found?.uv) return null;
    const panel = found.object.userData.panel as PanelMesh;
    return { panel, hit: panel.at(found.uv) };
  }

  /** Where a point of the world appears on the screen, in CSS pixels. */
  project(point: THREE.Vector3): [number, number] {
    this.camera.updateMatrixWorld();
    const box = this.view.getBoundingClientRect();
    const seen = point.clone().project(this.camera);
    return [box.left + ((seen.x + 1) / 2) * box.width, box.top + ((1 - seen.y) / 2) * box.height];
  }

  /** Stand before a panel so that it fills the part of the window that is free. */
  private poseBefore(mesh: PanelMesh): Pose {
    const { panel } = mesh;
    const width = window.innerWidth;
    const [left, right] = [this.covered(), this.covered() ? DETAILS : 0];
    const [above, below] = this.hiddenBands(left > 0);
    const free = Math.max(0.3, (width - left - right) / width);
    const half = Math.tan((this.camera.fov / 2) * (Math.PI / 180));
    let needed = Math.max(
      (panel.height + 1.6) / (2 * half),
      (panel.width + 0.7) / (2 * half * this.camera.aspect * free),
    );
    const [ahead, aside] = mesh.axes();
    if (below) {
      const free = 1 - (below + above) / window.innerHeight;
      needed = Math.max(needed, (panel.height + 1.6) / (2 * half * Math.max(0.2, free)));
    }
    const down = ((below - above) / window.innerHeight) * half * needed;
    // What is free lies to the left of the middle while a channel is told of.
    const by = (right / width) * half * this.camera.aspect * needed;
    const target = mesh.centre.clone().addScaledVector(aside, by);
    target.y -= down;
    const position = target.clone().addScaledVector(ahead, needed);
    position.y = Math.max(0.6, position.y); // never below the floor
    return { position, target };
  }

  visit(mesh: PanelMesh, jump = false): void {
    const pose = this.poseBefore(mesh);
    this.setGhosts(mesh, pose.position);
    if (jump) this.controls.jump(pose);
    else this.controls.fly(pose);
    this.invalidate();
  }

  /** Stand where a panel and those that feed it are seen together. */
  overlook(mesh: PanelMesh, sources: PanelMesh[]): void {
    const all = [mesh, ...sources];
    const nearest = Math.min(...all.map(({ panel }) => panel.z));
    const middle = all.reduce((sum, { centre }) => sum.add(centre), new THREE.Vector3()).divideScalar(all.length);
    const reach = Math.max(...all.map(({ centre, panel }) => centre.distanceTo(middle) + panel.width / 2));
    const tall = this.camera.aspect < 0.8 ? 1.9 : 1;
    this.focus = { eye: new THREE.Vector3(Infinity, 0, 0) };
    this.clearGhosts();
    const position = new THREE.Vector3(
      middle.x + tall * (reach * 1.1 + 3), 3 + reach * 0.4 * tall, tall * (reach * 0.9 + 3) - nearest,
    );
    // The middle of what is free of the details, not of the window, is where they are seen.
    const way = middle.clone().sub(position);
    const aside = new THREE.Vector3(-way.z, 0, way.x).normalize();
    const half = Math.tan((this.camera.fov / 2) * (Math.PI / 180)) * way.length();
    const [above, below] = this.covered() ? [0, 0] : this.hiddenBands(false);
    const by = aside.multiplyScalar(((this.covered() ? DETAILS : 0) / window.innerWidth) * half * this.camera.aspect);
    by.y -= ((below - above) / window.innerHeight) * half;
    const target = middle.clone().add(by);
    position.add(by);
    position.y = Math.max(0.6, position.y);
    this.controls.fly({ position, target });
    this.invalidate();
  }

  /** Make what stands between a panel and its visitor transparent. */
  private setGhosts(target: PanelMesh, eye: THREE.Vector3): void {
    this.focus = { eye };
    const [ahead, aside] = target.axes();
    const away = eye.clone().sub(target.centre).dot(ahead);
    for (const { panels } of this.buildings) {
      for (const one of panels) {
        const way = one.centre.clone().sub(target.centre);
        const depth = way.dot(ahead);
        const slack = (one.panel.width / 2) * Math.abs(Math.sin(one.angle - target.angle)) + 0.3;
        const between = one !== target && depth > 0.01 - slack && depth < away + slack;
        // What is close to the eye covers more than it is wide.
        const reach = ((one.panel.width + target.panel.width) / 2) * (depth > away / 2 ? 1.7 : 1);
        one.ghost = between && depth + slack > 0.4 && Math.abs(way.dot(aside)) < reach;
      }
    }
  }

  private clearGhosts(): void {
    if (!this.focus || this.controls.flying) return;
    if (this.camera.position.distanceTo(this.focus.eye) < 1.2) return;
    this.focus = null;
    for (const { panels } of this.buildings) for (const one of panels) one.ghost = false;
    this.invalidate();
  }
}

function isSoftware(): boolean {
  const probe = document.createElement("canvas").getContext("webgl2");
  const info = probe?.getExtension("WEBGL_debug_renderer_info");
  const name = info ? String(probe!.getParameter(info.UNMASKED_RENDERER_WEBGL)) : "";
  probe?.getExtension("WEBGL_lose_context")?.loseContext();
  return /swiftshader|llvmpipe|software|basic render/i.test(name);
}
