// The feature maps of one network for one image, as bytes with a bound per channel.

import { unpack, unpackFloats } from "./codec";
import { LEVELS, ZERO, type SeenRecord } from "./scene";

export const FACTS = 5;

export interface Maps {
  values: Uint8Array;
  channels: number;
  height: number;
  width: number;
  bound: Float32Array;
  facts: Float32Array;
}

/** The number that a byte of a channel stands for. */
export function valueOf(maps: Maps, channel: number, row: number, column: number): number {
  const byte = maps.values[(channel * maps.height + row) * maps.width + column];
  return byte === 0 ? NaN : ((byte - ZERO) * maps.bound[channel]) / LEVELS;
}

/** Decode the maps of every panel in turn; those that are told as others' are made from them. */
export async function readMaps(
  seen: SeenRecord, blobs: string[], each: (panel: number, maps: Maps) => void,
): Promise<Maps[]> {
  const channels = seen.maps.reduce((sum, maps) => sum + maps.shape[0], 0);
  const [bound, facts] = await Promise.all([
    unpackFloats(blobs[seen.bound], channels),
    unpackFloats(blobs[seen.facts], channels * FACTS),
  ]);
  const found: Maps[] = [];
  const packed = seen.maps.map((one) => one.blob);
  const ahead: Promise<Uint8Array | null>[] = [];
  const AHEAD = 6;
  const fetch = (at: number): void => {
    const blob = packed[at];
    ahead[at] = blob === undefined ? Promise.resolve(null)
      : unpack(blobs[blob], seen.maps[at].shape[2]);
  };
  for (let at = 0; at < Math.min(AHEAD, packed.length); at++) fetch(at);
  let start = 0;
  for (let at = 0; at < seen.maps.length; at++) {
    const one = seen.maps[at];
    const values = (await ahead[at]) ?? borrowed(found, one.joined, one.rectified);
    delete ahead[at];
    if (at + AHEAD < packed.length) fetch(at + AHEAD);
    const [count, height, width] = one.shape;
    const maps = {
      values, channels: count, height, width,
      bound: bound.subarray(start, start + count),
      facts: facts.subarray(start * FACTS, (start + count) * FACTS),
    };
    start += count;
    found.push(maps);
    each(at, maps);
  }
  return found;
}

function borrowed(found: Maps[], joined?: number[], rectified?: number): Uint8Array {
  if (rectified !== undefined) {
    return found[rectified].values.map((byte) => (byte === 0 ? 0 : Math.max(byte, ZERO)));
  }
  const parts = (joined ?? []).map((number) => found[number].values);
  const values = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let start = 0;
  for (const part of parts) {
    values.set(part, start);
    start += part.length;
  }
  return values;
}
