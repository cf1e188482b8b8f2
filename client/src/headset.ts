// WebXR: the same walk on a headset, where there is one.

import * as THREE from "three";
import { className } from "./classes";
import { FACTS } from "./maps";
import { element, mapCanvas, number } from "./pixels";
import type { ScaleName } from "./colours";
import type { Selection } from "./selection";
import { dispose, textureOf } from "./text";
import type { World } from "./world";

const SPEED = 4;
const TURN = Math.PI / 6;

export async function offerHeadset(
  world: World, box: HTMLElement, pick: (selection: Selection) => void, scale: () => ScaleName,
): Promise<void> {
  if (!navigator.xr || !(await navigator.xr.isSessionSupported("immersive-vr").catch(() => false))) {
    return;
  }
  const button = element("button", { textContent: "Enter VR" });
  button.onclick = () => void new Headset(world, pick, scale).enter();
  box.append(button);
}

class Headset {
  private plate: THREE.Object3D | null = null;
  private turned = false;

  constructor(
    private readonly world: World, private readonly pick: (selection: Selection) => void,
    private readonly scale: () => ScaleName,
  ) {}

  async enter(): Promise<void> {
    const { renderer, rig, camera } = this.world;
    const session = await navigator.xr!.requestSession("immersive-vr", {
      optionalFeatures: ["local-floor"],
    });
    renderer.xr.enabled = true;
    renderer.xr.setReferenceSpaceType("local-floor");
    const before = camera.position.clone();
    rig.position.set(before.x, 0, before.z);
    camera.position.set(0, 0, 0);
    await renderer.xr.setSession(session);
    const hands = [0, 1].map((at) => this.hand(at));
    let last = 0;
    renderer.setAnimationLoop((now) => {
      this.move(session, Math.min(0.1, (now - last) / 1000));
      last = now;
      this.world.draw();
    });
    session.addEventListener("end", () => {
      renderer.setAnimationLoop(null);
      renderer.xr.enabled = false;
      hands.forEach((hand) => rig.remove(hand));
      this.closePlate();
      camera.position.copy(before).add(new THREE.Vector3(rig.position.x - before.x, 0, rig.position.z - before.z));
      rig.position.set(0, 0, 0);
      rig.rotation.set(0, 0, 0);
      this.world.invalidate();
    });
  }

  private hand(at: number): THREE.Object3D {
    const hand = this.world.renderer.xr.getController(at);
    const points = [new THREE.Vector3(), new THREE.Vector3(0, 0, -8)];
    if (!hand.children.length) {
      hand.add(new THREE.Line(
        new THREE.BufferGeometry().setFromPoints(points),
        new THREE.LineBasicMaterial({ color: "#ffb547" }),
      ));
      hand.addEventListener("select", () => this.choose(hand));
    }
    this.world.rig.add(hand);
    return hand;
  }

  private choose(hand: THREE.Object3D): void {
    const ray = new THREE.Raycaster();
    hand.updateMatrixWorld();
    ray.ray.origin.setFromMatrixPosition(hand.matrixWorld);
    ray.ray.direction.set(0, 0, -1).transformDirection(hand.matrixWorld);
    const met = this.world.meet(ray);
    if (!met?.hit || met.hit.channel < 0) return;
    const selection = { panel: met.panel, channel: met.hit.channel };
    this.pick(selection);
    this.openPlate(selection);
  }

  /** Sticks: one walks along the view, the other turns in steps. */
  private move(session: XRSession, seconds: number): void {
    const { rig, camera } = this.world;
    const heading = new THREE.Vector3();
    camera.getWorldDirection(heading).setY(0).normalize();
    const aside = new THREE.Vector3(-heading.z, 0, heading.x);
    for (const source of session.inputSources) {
      const axes = source.gamepad?.axes;
      if (!axes || axes.length < 2) continue;
      const [x, y] = axes.length > 3 ? [axes[2], axes[3]] : [axes[0], axes[1]];
      if (source.handedness === "right") {
        if (Math.abs(x) > 0.7 && !this.turned) rig.rotation.y -= Math.sign(x) * TURN;
        this.turned = Math.abs(x) > 0.7;
      } else {
        rig.position.addScaledVector(heading, -y * SPEED * seconds);
        rig.position.addScaledVector(aside, x * SPEED * seconds);
      }
    }
  }

  private closePlate(): void {
    if (!this.plate) return;
    this.world.rig.remove(this.plate);
    dispose(this.plate);
    this.plate = null;
  }

  /** The channel, large, within reach: headsets show nothing of the page around the canvas. */
  private openPlate({ panel, channel }: Selection): void {
    this.closePlate();
    const { maps } = panel;
    if (!maps || channel >= maps.channels) return;
    const canvas = element("canvas", { width: 640, height: 820 });
    const pen = canvas.getContext("2d")!;
    pen.fillStyle = "#0e131d";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.imageSmoothingEnabled = false;
    const size = maps.width * maps.height;
    const bytes = maps.values.subarray(channel * size, (channel + 1) * size);
    pen.drawImage(mapCanvas(bytes, maps.width, maps.height, this.scale()), 20, 20, 600, 600);
    const facts = maps.facts.subarray(channel * FACTS, (channel + 1) * FACTS);
    const name = className(this.world.buildings[panel.network], panel.number, channel);
    const lines = [
      `${panel.panel.name}, ${name ?? `channel ${channel}`}`,
      `${number(facts[0])} to ${number(facts[1])}`,
      `mean ${number(facts[2])}, deviation ${number(facts[3])}`,
    ];
    pen.font = "600 32px system-ui, sans-serif";
    lines.forEach((line, at) => {
      pen.fillStyle = at ? "#93a1b5" : "#e8edf5";
      pen.fillText(line, 20, 676 + at * 50, 600);
    });
    this.plate = new THREE.Mesh(
      new THREE.PlaneGeometry(0.5, 0.64), new THREE.MeshBasicMaterial({ map: textureOf(canvas) }),
    );
    const ahead = new THREE.Vector3();
    this.world.camera.getWorldDirection(ahead);
    const at = new THREE.Vector3().setFromMatrixPosition(this.world.camera.matrixWorld);
    at.addScaledVector(ahead, 0.9);
    this.plate.position.copy(this.world.rig.worldToLocal(at));
    this.plate.lookAt(new THREE.Vector3().setFromMatrixPosition(this.world.camera.matrixWorld));
    this.world.rig.add(this.plate);
  }
}
