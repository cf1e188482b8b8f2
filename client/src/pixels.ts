// Numbers and pictures on two-dimensional canvases.

import { NOT_FINITE, scaleColours, type ScaleName } from "./colours";
import { unpack } from "./codec";
import { LEVELS, ZERO } from "./scene";

export async function pictureCanvas(
  record: { shape: [number, number, number]; pixels: number }, blobs: string[],
): Promise<HTMLCanvasElement> {
  const [height, width, channels] = record.shape;
  const planes = await unpack(blobs[record.pixels], width);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const image = new ImageData(width, height);
  for (let at = 0; at < width * height; at++) {
    for (let part = 0; part < 3; part++) {
      image.data[at * 4 + part] = planes[Math.min(part, channels - 1) * width * height + at];
    }
    image.data[at * 4 + 3] = 255;
  }
  canvas.getContext("2d")!.putImageData(image, 0, 0);
  return canvas;
}

/** Bytes of one map, in the colours of a scale; full colour is the farthest byte from zero. */
export function mapCanvas(
  bytes: Uint8Array, width: number, height: number, scale: ScaleName, gain = 1,
): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const table = scaleColours(scale);
  const image = new ImageData(width, height);
  for (let at = 0; at < width * height; at++) {
    const value = Math.max(-LEVELS, Math.min(LEVELS, Math.round((bytes[at] - ZERO) * gain)));
    const from = (value + ZERO) * 4;
    for (let part = 0; part < 3; part++) {
      image.data[at * 4 + part] = bytes[at] ? table[from + part] : NOT_FINITE[part];
    }
    image.data[at * 4 + 3] = 255;
  }
  canvas.getContext("2d")!.putImageData(image, 0, 0);
  return canvas;
}

/** Numbers in the colours of a scale, where full colour is the given magnitude. */
export function valuesCanvas(
  values: Float32Array, width: number, height: number, bound: number, scale: ScaleName,
): HTMLCanvasElement {
  const bytes = Uint8Array.from(values, (value) => ZERO + Math.round((LEVELS * value) / (bound || 1)));
  return mapCanvas(bytes, width, height, scale);
}

export function scaleCanvas(scale: ScaleName): HTMLCanvasElement {
  return mapCanvas(Uint8Array.from({ length: 255 }, (_, at) => at + 1), 255, 1, scale);
}

/** Four significant digits, without an exponent where that is short. */
export function number(value: number, digits = 4): string {
  if (!Number.isFinite(value)) return "not finite";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(digits)));
}

export function element<K extends keyof HTMLElementTagNameMap>(
  tag: K, properties: Partial<HTMLElementTagNameMap[K]> = {}, ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}
