// How one value of a map is made: computed again from what the page holds, with what rounding allows.

import { unpackFloats } from "./codec";
import { readKernels, type Kernels } from "./kernels";
import { valueOf } from "./maps";
import type { PanelMesh } from "./panels";
import { LEVELS, type AffineRecord, type RuleRecord } from "./scene";
import type { Building } from "./world";

export interface Term {
  /** The panel and the channel that are read. */
  panel: number;
  channel: number;
  /** What is read, zero where it lies beyond the map. */
  patch: Float32Array;
  /** What it is multiplied by; null where nothing is. */
  kernel: Float32Array | null;
  /** What this channel adds. */
  sum: number;
}

export interface Explanation {
  layer: string;
  channel: number;
  row: number;
  column: number;
  /** The value in the map, and how far it may be off by rounding. */
  value: number;
  how: string;
  /** Why the page cannot compute it; empty if it can. */
  why: string;
  terms: Term[];
  /** Of the window: height and width; and where it begins in the map that is read. */
  window: [number, number];
  corner: [number, number];
  bias: number;
  /** Kernels that the page does not hold, and what they add together. */
  rest: { kernels: number; sum: number } | null;
  /** What was computed; null where that cannot be. */
  result: number | null;
  /** How far the result and the value may be apart because bytes are rounded. */
  slack: number;
}

/** Reads the maps of a panel as another panel does, after a normalisation on the way. */
interface Reader {
  panel: number;
  shape: [number, number, number];
  at(channel: number, row: number, column: number): number;
  half(channel: number): number;
}

export async function explain(
  building: Building, mesh: PanelMesh, channel: number, row: number, column: number, blobs: string[],
): Promise<Explanation> {
  const { panel, maps } = mesh;
  const found: Explanation = {
    layer: panel.name, channel, row, column, value: maps && channel < maps.channels ? valueOf(maps, channel, row, column) : NaN,
    how: panel.rule?.how ?? "", why: "", terms: [], window: [1, 1], corner: [row, column],
    bias: 0, rest: null, result: null, slack: 0,
  };
  const why = reason(building, mesh);
  if (why) return { ...found, why };
  found.slack = maps!.bound[channel] / (2 * LEVELS);
  const rule = panel.rule!;
  if (rule.how === "conv") await convolve(found, building, mesh, blobs);
  else if (rule.how === "sum" || rule.how.startsWith("relu")) await pointwise(found, building, mesh, blobs);
  else pool(found, await reader(building, mesh, 0, blobs), mesh);
  return found;
}

/** Why a panel's values cannot be computed from what the page holds; empty if they can. */
function reason(building: Building, mesh: PanelMesh): string {
  const { panel } = mesh;
  if (panel.kind === "input") return "This is the image, scaled as the network expects.";
  const { rule } = panel;
  if (!rule) return `The page computes convolutions, linear layers, pooling, sums and rectifiers, not ${panel.text}.`;
  if (!rule.how) return `This layer cannot be computed here: ${rule.why}.`;
  if (rule.how === "conv" && !panel.weights) return "The weights of this layer are not in the page.";
  if (isReduced(mesh)) return "The page holds these maps averaged down or in part, to save space.";
  const feeds = rule.how === "sum" ? panel.feeds : panel.feeds.slice(0, 1);
  for (const [at, [number]] of feeds.entries()) {
    const { how } = panel.links[at];
    const source = building.panels[number];
    if (how === "norm") return `Between ${source.panel.name} and this layer is a normalisation whose values are not in the page.`;
    if (!how) return `What this layer reads of ${source.panel.name} is not in the page as it is read.`;
    if (isReduced(source)) return `The page holds the maps of ${source.panel.name} averaged down or in part, to save space.`;
  }
  return "";
}

function isReduced({ maps, panel }: PanelMesh): boolean {
  const [channels, height, width] = panel.shape;
  return !maps || maps.channels !== channels || maps.height !== height || maps.width !== width;
}

async function affineOf(record: AffineRecord | undefined, blobs: string[]): Promise<Float32Array | null> {
  return record ? unpackFloats(blobs[record[0]], 2 * record[1]) : null;
}

async function reader(building: Building, mesh: PanelMesh, feed: number, blobs: string[]): Promise<Reader> {
  const [number] = mesh.panel.feeds[feed];
  const source = building.panels[number];
  const maps = source.maps!;
  const affine = await affineOf(mesh.panel.links[feed].affine, blobs);
  const [channels] = source.panel.shape;
  const scale = (channel: number): number => affine ? affine[channel] : 1;
  return {
    panel: number, shape: source.panel.shape,
    at: (channel, row, column) =>
      scale(channel) * valueOf(maps, channel, row, column) + (affine ? affine[channels + channel] : 0),
    half: (channel) => Math.abs(scale(channel)) * maps.bound[channel] / (2 * LEVELS),
  };
}

async function convolve(
  found: Explanation, building: Building, mesh: PanelMesh, blobs: string[],
): Promise<void> {
  const { panel } = mesh;
  const [rule, record] = [panel.rule!, panel.weights!];
  const [filters, inputs, height, width] = record.shape;
  const [kernels, read] = await Promise.all([
    readKernels(record, blobs), reader(building, mesh, 0, blobs),
  ]);
  if (rule.bias !== undefined) found.bias = (await unpackFloats(blobs[rule.bias], filters))[found.channel];
  const group = Math.floor(found.channel / (filters / record.groups)) * inputs;
  if (panel.links[0].how === "flat") {
    flatTerms(found, kernels, read);
  } else {
    found.window = [height, width];
    found.corner = cornerOf(rule, found.row, found.column);
    for (const input of kernels.inputs(found.channel)) {
      const kernel = kernels.kernel(found.channel, input);
      found.terms.push(term(found, kernels, read, group + input, kernel, rule.dilation!));
    }
  }
  found.terms.sort((a, b) => Math.abs(b.sum) - Math.abs(a.sum));
  const sum = found.terms.reduce((total, one) => total + one.sum, found.bias);
  if (kernels.complete) found.result = sum;
  else found.rest = { kernels: inputs - kernels.inputs(found.channel).length, sum: found.value - sum };
}

function cornerOf(rule: RuleRecord, row: number, column: number): [number, number] {
  const [down, across] = rule.stride!;
  return [row * down - rule.padding![0], column * across - rule.padding![1]];
}

function term(
  found: Explanation, kernels: Kernels, read: Reader, channel: number, kernel: Float32Array,
  dilation: [number, number],
): Term {
  const [height, width] = found.window;
  const patch = new Float32Array(height * width);
  const [half, weightHalf] = [read.half(channel), kernels.half(found.channel)];
  let sum = 0;
  for (let at = 0; at < patch.length; at++) {
    const row = found.corner[0] + Math.floor(at / width) * dilation[0];
    const column = found.corner[1] + (at % width) * dilation[1];
    if (!inside(read, row, column)) continue;
    patch[at] = read.at(channel, row, column);
    sum += patch[at] * kernel[at];
    found.slack += allowance(patch[at], kernel[at], half, weightHalf);
  }
  return { panel: read.panel, channel, patch, kernel, sum };
}

/** What rounding may change of a product, and a little for sums in single precision. */
function allowance(value: number, weight: number, half: number, weightHalf: number): number {
  return Math.abs(weight) * half + (Math.abs(value) + half) * weightHalf + 1e-6 * Math.abs(value * weight);
}

function inside({ shape }: Reader, row: number, column: number): boolean {
  return row >= 0 && column >= 0 && row < shape[1] && column < shape[2];
}

/** All maps in one row are read by as many weights: those of one map belong together. */
function flatTerms(found: Explanation, kernels: Kernels, read: Reader): void {
  const [channels, height, width] = read.shape;
  const size = kernels.complete ? height * width : 1;
  const weightHalf = kernels.half(found.channel);
  const one = (input: number): [number, number] => {
    const [channel, at] = [Math.floor(input / (height * width)), input % (height * width)];
    const value = read.at(channel, Math.floor(at / width), at % width);
    const weight = kernels.kernel(found.channel, input)[0];
    found.slack += allowance(value, weight, read.half(channel), weightHalf);
    return [value, weight];
  };
  const starts = kernels.complete ? Array.from({ length: channels }, (_, at) => at * size)
    : kernels.inputs(found.channel);
  if (kernels.complete) found.window = [height, width];
  for (const start of starts) {
    const pairs = Array.from({ length: size }, (_, at) => one(start + at));
    const [patch, kernel] = [0, 1].map((part) => Float32Array.from(pairs, (pair) => pair[part]));
    const sum = pairs.reduce((total, [value, weight]) => total + value * weight, 0);
    found.terms.push({ panel: read.panel, channel: Math.floor(start / (height * width)), patch, kernel, sum });
  }
  found.corner = [0, 0];
}

function pool(found: Explanation, read: Reader, mesh: PanelMesh): void {
  const rule = mesh.panel.rule!;
  const [, height, width] = mesh.panel.shape;
  const [, rows, columns] = read.shape;
  const { row, column, channel } = found;
  let [down, across] = [1, 1];
  let divisor = 0;
  if (rule.window) {
    [down, across] = rule.dilation!;
    found.window = rule.window;
    found.corner = cornerOf(rule, row, column);
    const reach = [rows + rule.padding![0], columns + rule.padding![1]];
    // What lies beyond the padding, as at the end with ceil_mode, does not count.
    divisor = rule.window.reduce((product, size, axis) =>
      product * (Math.min(found.corner[axis] + size, reach[axis]) - found.corner[axis]), 1);
  } else {
    const top = Math.floor((row * rows) / height);
    const left = Math.floor((column * columns) / width);
    found.corner = [top, left];
    found.window = [Math.ceil(((row + 1) * rows) / height) - top, Math.ceil(((column + 1) * columns) / width) - left];
  }
  const patch = new Float32Array(found.window[0] * found.window[1]);
  const values: number[] = [];
  for (let at = 0; at < patch.length; at++) {
    const place = [found.corner[0] + Math.floor(at / found.window[1]) * down,
      found.corner[1] + (at % found.window[1]) * across];
    if (inside(read, place[0], place[1])) values.push(patch[at] = read.at(channel, place[0], place[1]));
  }
  const total = values.reduce((sum, one) => sum + one, 0);
  if (rule.how === "max") {
    found.result = Math.max(...values);
    found.slack += read.half(channel);
  } else {
    const by = !rule.window || rule.divisor === "inside" ? values.length
      : rule.divisor === "all" ? divisor : Number(rule.divisor);
    found.result = total / by;
    found.slack += (read.half(channel) * values.length) / by + 1e-6 * Math.abs(found.result);
  }
  found.terms.push({ panel: read.panel, channel, patch, kernel: null, sum: found.result });
}

/** Sums of maps, and rectifiers, with a normalisation before them. */
async function pointwise(
  found: Explanation, building: Building, mesh: PanelMesh, blobs: string[],
): Promise<void> {
  const rule = mesh.panel.rule!;
  const { row, column, channel } = found;
  const feeds = rule.how === "sum" ? mesh.panel.feeds.length : 1;
  const own = await affineOf(rule.affine, blobs);
  const [channels] = mesh.panel.shape;
  const scale = own ? own[channel] : 1;
  let sum = own ? own[channels + channel] : 0;
  for (let feed = 0; feed < feeds; feed++) {
    const read = await reader(building, mesh, feed, blobs);
    if (read.shape.join() !== mesh.panel.shape.join()) {
      found.why = "The maps that are added have different shapes.";
      return;
    }
    const value = scale * read.at(channel, row, column);
    found.slack += Math.abs(scale) * read.half(channel) + 1e-6 * Math.abs(value);
    found.terms.push({
      panel: read.panel, channel, patch: Float32Array.of(read.at(channel, row, column)),
      kernel: own ? Float32Array.of(scale) : null, sum: value,
    });
    sum += value;
  }
  found.bias = own ? own[channels + channel] : 0;
  if (rule.how !== "sum") sum = Math.max(0, rule.how === "relu6" ? Math.min(6, sum) : sum);
  found.result = sum;
}

/** Whether the result is the value, as far as rounded bytes can tell. */
export function agrees(found: Explanation): boolean {
  return found.result !== null && Math.abs(found.result - found.value) <= found.slack + 1e-6 * Math.abs(found.value);
}
