// Walking: keys, mouse, wheel and touch move the camera; flights take it to a place.

import * as THREE from "three";

const WALK = 5; // metres per second
const LOOK = 0.0042; // radians per pixel
const LIMIT = 1.45; // of looking up and down

const MOVES: Record<string, [number, number, number]> = {
  KeyW: [0, 0, -1], ArrowUp: [0, 0, -1], KeyS: [0, 0, 1], ArrowDown: [0, 0, 1],
  KeyA: [-1, 0, 0], ArrowLeft: [-1, 0, 0], KeyD: [1, 0, 0], ArrowRight: [1, 0, 0],
  KeyE: [0, 1, 0], PageUp: [0, 1, 0], KeyQ: [0, -1, 0], PageDown: [0, -1, 0],
};

export interface Pose {
  position: THREE.Vector3;
  target: THREE.Vector3;
}

interface Flight {
  from: THREE.Vector3;
  to: THREE.Vector3;
  yaw: [number, number];
  pitch: [number, number];
  lift: number;
  start: number;
  lasts: number;
}

export class Controls {
  onMove = (): void => {};
  onClick = (_x: number, _y: number, _twice: boolean): void => {};
  onPoint = (_x: number, _y: number): void => {};
  /** Where the wheel leads: a direction in the world for a place on the screen. */
  rayOf = (_x: number, _y: number): THREE.Vector3 => new THREE.Vector3(0, 0, -1);
  ground = { left: -50, right: 50, near: 40, far: -1000 };

  private yaw = 0;
  private pitch = 0;
  private readonly held = new Set<string>();
  private fast = false;
  private flight: Flight | null = null;
  private readonly fingers = new Map<number, THREE.Vector2>();
  private dragged = 0;
  private spread = 0;
  private clicked = 0;

  constructor(private readonly camera: THREE.PerspectiveCamera, private readonly view: HTMLElement) {
    camera.rotation.order = "YXZ";
    this.listen();
  }

  get flying(): boolean {
    return this.flight !== null;
  }

  get moving(): boolean {
    return this.flying || this.held.size > 0;
  }

  private listen(): void {
    const { view } = this;
    window.addEventListener("keydown", (event) => this.key(event, true));
    window.addEventListener("keyup", (event) => this.key(event, false));
    window.addEventListener("blur", () => this.held.clear());
    view.addEventListener("pointerdown", (event) => this.down(event));
    view.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"] as const) {
      view.addEventListener(name, (event) => this.up(event));
    }
    view.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    view.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  private key(event: KeyboardEvent, down: boolean): void {
    this.fast = event.shiftKey;
    const typing = event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement;
    if (!(event.code in MOVES) || (down && (typing || event.ctrlKey || event.metaKey || event.altKey))) return;
    if (down) {
      event.preventDefault();
      this.held.add(event.code);
      this.flight = null;
      this.onMove();
    } else {
      this.held.delete(event.code);
    }
  }

  private down(event: PointerEvent): void {
    this.view.focus({ preventScroll: true });
    this.view.setPointerCapture(event.pointerId);
    this.fingers.set(event.pointerId, new THREE.Vector2(event.clientX, event.clientY));
    if (this.fingers.size === 1) this.dragged = 0;
    else this.dragged = 100; // two fingers are never a click
    this.spread = this.fingerSpread();
  }

  private move(event: PointerEvent): void {
    const finger = this.fingers.get(event.pointerId);
    if (!finger) {
      this.onPoint(event.clientX, event.clientY);
      return;
    }
    const [x, y] = [event.clientX - finger.x, event.clientY - finger.y];
    finger.set(event.clientX, event.clientY);
    this.dragged += Math.abs(x) + Math.abs(y);
    if (this.dragged < 5) return;
    this.flight = null;
    this.view.classList.add("drag");
    const touch = event.pointerType === "touch";
    if (this.fingers.size === 2) {
      const spread = this.fingerSpread();
      this.step(new THREE.Vector3(-x * 0.006, y * 0.006, -(spread - this.spread) * 0.02));
      this.spread = spread;
    } else if (event.buttons & 6 || event.ctrlKey) {
      this.step(new THREE.Vector3(-x * 0.012, y * 0.012, 0));
    } else {
      const turn = touch ? 1.3 * LOOK : LOOK;
      this.look(this.yaw + x * turn, this.pitch + y * turn);
    }
    this.onMove();
  }

  private up(event: PointerEvent): void {
    const known = this.fingers.delete(event.pointerId);
    this.view.classList.remove("drag");
    if (!known || event.type === "pointercancel" || this.dragged >= 5 || event.button > 0) return;
    const twice = event.timeStamp - this.clicked < 350;
    this.clicked = twice ? 0 : event.timeStamp;
    this.onClick(event.clientX, event.clientY, twice);
  }

  private fingerSpread(): number {
    const [one, two] = [...this.fingers.values()];
    return two ? one.distanceTo(two) : 0;
  }

  private wheel(event: WheelEvent): void {
    event.preventDefault();
    this.flight = null;
    const scale = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 30 : 1;
    const amount = Math.max(-240, Math.min(240, event.deltaY * scale));
    const along = this.rayOf(event.clientX, event.clientY);
    this.place(this.camera.position.clone().addScaledVector(along, -amount * 0.012));
    this.onMove();
  }

  /** Move as seen from the camera, but level with the floor. */
  private step(by: THREE.Vector3): void {
    const level = new THREE.Vector3(by.x, 0, by.z).applyAxisAngle(new THREE.Vector3(0, 1, 0), this.yaw);
    this.place(this.camera.position.clone().add(level).add(new THREE.Vector3(0, by.y, 0)));
  }

  private place(at: THREE.Vector3): void {
    const { ground } = this;
    this.camera.position.set(
      THREE.MathUtils.clamp(at.x, ground.left, ground.right),
      THREE.MathUtils.clamp(at.y, 0.3, 90),
      THREE.MathUtils.clamp(at.z, ground.far, ground.near),
    );
  }

  private look(yaw: number, pitch: number): void {
    this.yaw = yaw;
    this.pitch = THREE.MathUtils.clamp(pitch, -LIMIT, LIMIT);
    this.camera.rotation.set(this.pitch, this.yaw, 0);
  }

  jump(pose: Pose): void {
    this.flight = null;
    this.place(pose.position);
    this.look(...angles(pose));
    this.onMove();
  }

  fly(pose: Pose): void {
    const distance = this.camera.position.distanceTo(pose.position);
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (still || distance < 0.01) {
      this.jump(pose);
      return;
    }
    const [yaw, pitch] = angles(pose);
    const turn = THREE.MathUtils.euclideanModulo(yaw - this.yaw + Math.PI, 2 * Math.PI) - Math.PI;
    this.flight = {
      from: this.camera.position.clone(), to: pose.position.clone(),
      yaw: [this.yaw, this.yaw + turn], pitch: [this.pitch, pitch],
      lift: distance > 14 ? Math.min(6, distance * 0.08) : 0,
      start: performance.now(), lasts: Math.min(1500, 450 + distance * 16),
    };
    this.onMove();
  }

  /** Move on by the time since the last frame; gives whether the camera moved. */
  update(now: number, seconds: number): boolean {
    if (this.flight) {
      const { from, to, yaw, pitch, lift, start, lasts } = this.flight;
      const share = Math.min(1, Math.max(0, (now - start) / lasts));
      const eased = share < 0.5 ? 4 * share ** 3 : 1 - (2 - 2 * share) ** 3 / 2;
      const at = from.clone().lerp(to, eased);
      at.y += lift * 4 * eased * (1 - eased);
      this.place(at);
      this.look(yaw[0] + (yaw[1] - yaw[0]) * eased, pitch[0] + (pitch[1] - pitch[0]) * eased);
      if (share >= 1) this.flight = null;
      return true;
    }
    if (!this.held.size) return false;
    const way = new THREE.Vector3();
    for (const code of this.held) way.add(new THREE.Vector3(...MOVES[code]));
    if (!way.lengthSq()) return false;
    this.step(way.normalize().multiplyScalar(WALK * (this.fast ? 4 : 1) * Math.min(seconds, 0.1)));
    return true;
  }
}

function angles(pose: Pose): [number, number] {
  const way = pose.target.clone().sub(pose.position);
  return [Math.atan2(-way.x, -way.z), Math.atan2(way.y, Math.hypot(way.x, way.z))];
}
