// The kernels of a layer that the page holds: all of them, or the strongest of each filter.

import { unpack, unpackFloats, unpackShorts } from "./codec";
import { LEVELS, ZERO, type WeightsRecord } from "./scene";

export interface Kernels {
  /** Inputs of a filter whose kernels are here. */
  inputs(filter: number): number[];
  /** The kernel that a filter has for one of those inputs. */
  kernel(filter: number, input: number): Float32Array;
  /** Half a step of a filter's bytes. */
  half(filter: number): number;
  complete: boolean;
}

const known = new WeakMap<WeightsRecord, Promise<Kernels>>();

export function readKernels(record: WeightsRecord, blobs: string[]): Promise<Kernels> {
  let found = known.get(record);
  if (!found) known.set(record, found = decode(record, blobs));
  return found;
}

async function decode(record: WeightsRecord, blobs: string[]): Promise<Kernels> {
  const [filters, inputs, height, width] = record.shape;
  const size = height * width;
  const whole = record.whole;
  const count = whole === undefined ? record.kept : inputs;
  const [bytes, bound, chosen] = await Promise.all([
    unpack(blobs[whole ?? record.kernels], width), unpackFloats(blobs[record.bound], filters),
    unpackShorts(blobs[record.inputs], filters * record.kept),
  ]);
  const own = (filter: number): number[] =>
    Array.from(chosen.subarray(filter * record.kept, (filter + 1) * record.kept));
  return {
    complete: count === inputs,
    inputs: (filter) => whole === undefined ? own(filter) : Array.from({ length: inputs }, (_, at) => at),
    kernel: (filter, input) => {
      const at = whole === undefined ? own(filter).indexOf(input) : input;
      const from = (filter * count + at) * size;
      const step = bound[filter] / LEVELS;
      return Float32Array.from(bytes.subarray(from, from + size), (byte) => (byte - ZERO) * step);
    },
    half: (filter) => bound[filter] / (2 * LEVELS),
  };
}

/** The length of a kernel. */
export function norm(kernel: Float32Array): number {
  return Math.sqrt(kernel.reduce((sum, one) => sum + one * one, 0));
}
