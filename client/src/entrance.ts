// Where a network begins: the image, and above it the classes that it sees there.

import * as THREE from "three";
import type { Panel } from "./scene";
import { TURN } from "./panels";
import { dispose, textureOf } from "./text";

const SIZE = 2.6;

export class Entrance {
  readonly group = new THREE.Group();
  private picture: THREE.Object3D | null = null;
  private results: THREE.Object3D | null = null;

  constructor(panel: Panel) {
    this.group.position.set(panel.x, 0, -panel.z + 3.4);
    this.group.rotation.y = TURN;
  }

  showPicture(canvas: HTMLCanvasElement): void {
    if (this.picture) {
      this.group.remove(this.picture);
      dispose(this.picture);
    }
    const [width, height] = canvas.width >= canvas.height
      ? [SIZE, (SIZE * canvas.height) / canvas.width]
      : [(SIZE * canvas.width) / canvas.height, SIZE];
    const texture = textureOf(canvas);
    texture.magFilter = canvas.width < 100 ? THREE.NearestFilter : THREE.LinearFilter;
    const picture = new THREE.Mesh(
      new THREE.PlaneGeometry(width, height),
      new THREE.MeshBasicMaterial({ map: texture, side: THREE.DoubleSide }),
    );
    picture.position.y = 0.4 + height / 2;
    const rim = new THREE.Mesh(
      new THREE.PlaneGeometry(width + 0.1, height + 0.1),
      new THREE.MeshBasicMaterial({ color: "#e8edf5", side: THREE.DoubleSide }),
    );
    rim.position.set(0, picture.position.y, -0.01);
    this.picture = new THREE.Group().add(picture, rim);
    this.group.add(this.picture);
  }

  showResults(guesses: [number, string, number][]): void {
    if (this.results) {
      this.group.remove(this.results);
      dispose(this.results);
      this.results = null;
    }
    if (!guesses.length) return;
    const canvas = drawResults(guesses);
    const width = 3.1;
    const height = (width * canvas.height) / canvas.width;
    this.results = new THREE.Mesh(
      new THREE.PlaneGeometry(width, height),
      new THREE.MeshBasicMaterial({
        map: textureOf(canvas), transparent: true, side: THREE.DoubleSide,
      }),
    );
    this.results.position.y = 0.4 + SIZE + 0.3 + height / 2;
    this.group.add(this.results);
  }
}

function drawResults(guesses: [number, string, number][]): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  const row = 62;
  canvas.width = 720;
  canvas.height = guesses.length * row + 24;
  const pen = canvas.getContext("2d")!;
  pen.fillStyle = "rgba(16, 23, 36, 0.94)";
  pen.beginPath();
  pen.roundRect(0, 0, canvas.width, canvas.height, 18);
  pen.fill();
  pen.textBaseline = "middle";
  guesses.forEach(([, label, share], at) => {
    const y = 12 + row * at;
    pen.fillStyle = at ? "rgba(90, 169, 255, 0.20)" : "rgba(255, 181, 71, 0.34)";
    pen.beginPath();
    pen.roundRect(12, y + 6, Math.max(8, (canvas.width - 24) * share), row - 12, 8);
    pen.fill();
    pen.fillStyle = at ? "#b7c4d8" : "#ffffff";
    pen.font = `${at ? 500 : 650} 32px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif`;
    pen.textAlign = "left";
    pen.fillText(shortened(pen, label, canvas.width - 200), 28, y + row / 2);
    pen.textAlign = "right";
    const percent = 100 * share;
    pen.fillText(`${percent < 9.95 ? percent.toFixed(1) : percent.toFixed(0)} %`, canvas.width - 28, y + row / 2);
  });
  return canvas;
}

function shortened(pen: CanvasRenderingContext2D, text: string, width: number): string {
  if (pen.measureText(text).width <= width) return text;
  let kept = text;
  while (kept && pen.measureText(`${kept}…`).width > width) kept = kept.slice(0, -1);
  return `${kept}…`;
}
