// Writing in space: a canvas becomes a plane; only what is near is written.

import * as THREE from "three";

const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';

export interface Line {
  text: string;
  size: number;
  colour: string;
  weight?: number;
}

function draw(lines: Line[]): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  const pen = canvas.getContext("2d")!;
  const style = (line: Line): string => `${line.weight ?? 500} ${line.size}px ${FONT}`;
  let [width, height] = [0, 0];
  for (const line of lines) {
    pen.font = style(line);
    width = Math.max(width, pen.measureText(line.text).width);
    height += line.size * 1.28;
  }
  canvas.width = Math.min(2048, Math.ceil(width) + 8);
  canvas.height = Math.ceil(height) + 6;
  pen.textBaseline = "top";
  let y = 3;
  for (const line of lines) {
    pen.font = style(line);
    pen.fillStyle = line.colour;
    pen.fillText(line.text, 4, y, canvas.width - 8);
    y += line.size * 1.28;
  }
  return canvas;
}

export function textureOf(canvas: HTMLCanvasElement): THREE.CanvasTexture {
  const texture = new THREE.CanvasTexture(canvas);
  texture.colorSpace = THREE.SRGBColorSpace;
  texture.anisotropy = 4;
  return texture;
}

/** A plane with text, `height` metres for every 100 pixels of text; its origin is at the left. */
export function writing(lines: Line[], metresPer100: number): THREE.Mesh {
  const canvas = draw(lines);
  const [width, height] = [canvas.width, canvas.height].map((side) => (side / 100) * metresPer100);
  const geometry = new THREE.PlaneGeometry(width, height).translate(width / 2, 0, 0);
  const material = new THREE.MeshBasicMaterial({
    map: textureOf(canvas), transparent: true, depthWrite: false, side: THREE.DoubleSide, fog: true,
  });
  return new THREE.Mesh(geometry, material);
}

interface Sign {
  at: THREE.Vector3;
  make: () => THREE.Object3D;
  /** Whether it is wanted now, such as only while its panel is shown. */
  wanted: () => boolean;
  made: THREE.Object3D | null;
  far: number;
}

/** Signs that exist only near the camera. */
export class Signs {
  private readonly all: Sign[] = [];

  constructor(private readonly parent: THREE.Object3D) {}

  add(at: THREE.Vector3, far: number, make: () => THREE.Object3D, wanted = () => true): void {
    this.all.push({ at, make, wanted, made: null, far });
  }

  /** Write what came near and forget what went far; gives whether anything changed. */
  update(eye: THREE.Vector3, moving: boolean): boolean {
    let changed = false;
    let budget = moving ? 2 : 12; // what is written in one frame
    for (const sign of this.all) {
      const distance = eye.distanceTo(sign.at);
      if (!sign.made && distance < sign.far && budget > 0 && sign.wanted()) {
        sign.made = sign.make();
        this.parent.add(sign.made);
        budget--;
        changed = true;
      } else if (sign.made && (distance > sign.far * 1.25 || !sign.wanted())) {
        this.parent.remove(sign.made);
        dispose(sign.made);
        sign.made = null;
        changed = true;
      }
    }
    return changed;
  }
}

export function dispose(object: THREE.Object3D): void {
  object.traverse((part) => {
    if (!(part instanceof THREE.Mesh)) return;
    part.geometry.dispose();
    (part.material as THREE.MeshBasicMaterial).map?.dispose();
    part.material.dispose();
  });
}
