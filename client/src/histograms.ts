// How often values occur: of the activations and the weights of a layer.

import type { Maps } from "./maps";
import { element, number } from "./pixels";
import { LEVELS, ZERO, type WeightsRecord } from "./scene";

const BINS = 48;
const WIDTH = 576;
const HEIGHT = 120;

export interface Histogram {
  counts: number[];
  low: number;
  high: number;
  /** Values that are exactly zero, which are not among the counts. */
  zeros: number;
  total: number;
}

/** Count the values of all maps of a layer, or of one channel of it over the same range. */
export function activations(maps: Maps, only?: number, range?: [number, number]): Histogram {
  const size = maps.height * maps.width;
  let [low, high] = range ?? [0, 0];
  if (!range) {
    for (let channel = 0; channel < maps.channels; channel++) {
      low = Math.min(low, maps.facts[channel * 5]);
      high = Math.max(high, maps.facts[channel * 5 + 1]);
    }
  }
  if (!(high > low)) high = low + 1;
  const counts = new Array<number>(BINS).fill(0);
  let [zeros, total] = [0, 0];
  const [first, last] = only === undefined ? [0, maps.channels] : [only, only + 1];
  const scale = BINS / (high - low);
  for (let channel = first; channel < last; channel++) {
    const step = maps.bound[channel] / LEVELS;
    // A channel has 255 values at most: count its bytes, then place each of them once.
    const bytes = new Uint32Array(256);
    const end = (channel + 1) * size;
    for (let at = channel * size; at < end; at++) bytes[maps.values[at]]++;
    for (let byte = 1; byte < 256; byte++) {
      const count = bytes[byte];
      if (!count) continue;
      total += count;
      if (byte === ZERO) {
        zeros += count;
        continue;
      }
      const bin = Math.floor(((byte - ZERO) * step - low) * scale);
      counts[Math.max(0, Math.min(BINS - 1, bin))] += count;
    }
  }
  return { counts, low, high, zeros, total };
}

export function weightsHistogram(record: WeightsRecord): Histogram {
  const { counts, largest } = record;
  return {
    counts, low: -largest, high: largest, zeros: 0,
    total: counts.reduce((sum, one) => sum + one, 0),
  };
}

function draw(all: Histogram, own: Histogram | null): HTMLCanvasElement {
  const canvas = element("canvas", { width: WIDTH, height: HEIGHT, className: "chart" });
  const pen = canvas.getContext("2d")!;
  const bar = WIDTH / all.counts.length;
  const plot = ({ counts }: Histogram, colour: string, inset: number): void => {
    const most = Math.max(...counts) || 1;
    pen.fillStyle = colour;
    counts.forEach((count, at) => {
      // The square root keeps rare values visible beside frequent ones.
      const tall = count ? Math.max(2, Math.sqrt(count / most) * (HEIGHT - 6)) : 0;
      pen.fillRect(at * bar + inset, HEIGHT - tall, bar - 2 * inset, tall);
    });
  };
  plot(all, own ? "#33527f" : "#4f9dff", 1);
  if (own) plot(own, "#ffb547", 3);
  const zero = ((0 - all.low) / (all.high - all.low)) * WIDTH;
  pen.fillStyle = "rgba(232, 237, 245, .55)";
  if (zero >= 0 && zero <= WIDTH) pen.fillRect(Math.min(WIDTH - 2, zero), 0, 2, HEIGHT);
  return canvas;
}

function axis(of: Histogram): Node {
  return element("div", { className: "scale" }, element("span", { textContent: number(of.low) }),
    element("span", { textContent: number(of.high) }));
}

export function activationsView(maps: Maps, channel: number): Node[] {
  const all = activations(maps);
  const several = maps.height * maps.width > 1 && channel < maps.channels;
  const own = several ? activations(maps, channel, [all.low, all.high]) : null;
  const share = all.total ? (100 * all.zeros) / all.total : 0;
  const zeros = all.zeros ? ` ${number(share, 3)} % are zero and not drawn.` : "";
  const text = `${all.total.toLocaleString("en")} values of the layer${own ? " (blue), this channel's (amber), each to its own peak" : ""}; heights are square roots.${zeros}`;
  return [element("h3", { textContent: "Activations of the layer" }), draw(all, own), axis(all),
    element("p", { textContent: text })];
}

export function weightsView(record: WeightsRecord): Node[] {
  const all = weightsHistogram(record);
  if (!all.total) return [];
  return [element("h3", { textContent: "Weights of the layer" }), draw(all, null), axis(all),
    element("p", { textContent: `${all.total.toLocaleString("en")} weights; heights are square roots.` })];
}
