// The scene as the page holds it: JSON, and packed bytes by number.

import type { TourRecord } from "./tour";

export interface Panel {
  name: string;
  module: string;
  kind: string;
  text: string;
  feeds: [number, string[]][];
  shape: [number, number, number];
  section: string;
  rank: number;
  columns: number;
  x: number;
  z: number;
  width: number;
  height: number;
  slots: number[] | null;
  lost: number;
  weights: WeightsRecord | null;
  /** What happened to the maps of each feed on the way. */
  links: LinkRecord[];
  rule: RuleRecord | null;
}

/** Scales and shifts of channels: the number of the packed floats, and of the channels. */
export type AffineRecord = [number, number];

export interface LinkRecord {
  how: "same" | "flat" | "norm" | "";
  affine?: AffineRecord;
}

/** How a panel's values are computed; without "how", the reason why they cannot be. */
export interface RuleRecord {
  how: "conv" | "mean" | "max" | "relu" | "relu6" | "sum" | "";
  why?: string;
  window?: [number, number] | null;
  stride?: [number, number];
  padding?: [number, number];
  dilation?: [number, number];
  divisor?: string;
  bias?: number;
  affine?: AffineRecord;
}

export interface WeightsRecord {
  shape: [number, number, number, number];
  groups: number;
  kept: number;
  inputs: number;
  kernels: number;
  bound: number;
  norms: number;
  counts: number[];
  largest: number;
  whole?: number;
  spectrum?: number;
  spectra?: number;
  scores?: number;
  places?: number;
}

export interface MapsRecord {
  shape: [number, number, number];
  blob?: number;
  joined?: number[];
  rectified?: number;
}

export interface SeenRecord {
  guesses: [number, string, number][];
  maps: MapsRecord[];
  bound: number;
  facts: number;
}

export interface PictureRecord {
  name: string;
  shape: [number, number, number];
  pixels: number;
}

export interface MadeRecord {
  how: string;
  text: string;
  shape: [number, number, number];
  pixels: number;
  /** Of an image that the server keeps. */
  id?: number;
}

export type Way = [number, number, number[], string];

export interface NetworkRecord {
  name: string;
  architecture: string | null;
  ranking: string | null;
  notes: string[];
  labels: string[];
  classes: number[];
  scores: number | null;
  panels: Panel[];
  ways: Way[];
  seen: SeenRecord[];
  made: [number, number, MadeRecord[]][];
}

export interface SceneRecord {
  schema: string;
  version: string;
  quantisation: { rule: string; zero: number; levels: number };
  facts: string[];
  limit: { side: number | null; channels: number | null; text: string };
  pictures: PictureRecord[];
  networks: NetworkRecord[];
  server?: { images: string; largest: number; made: string; able: number[][] };
  tour?: TourRecord;
}

/** What the server answers when it was given an image. */
export interface Answer {
  picture: PictureRecord;
  seen: SeenRecord[];
  blobs: string[];
}

export const ZERO = 128;
export const LEVELS = 127;

export function readPage(): { scene: SceneRecord; blobs: string[] } {
  const scene = JSON.parse(document.getElementById("scene")!.textContent!) as SceneRecord;
  const blobs = Array.from(document.querySelectorAll("script.blob"), (tag) => tag.textContent!);
  return { scene, blobs };
}
