// Colours: of kinds of layers, and of signed values.

export const KINDS: Record<string, string> = {
  input: "#e8edf5", conv: "#4f9dff", linear: "#8f7bff", norm: "#7d8ca3", activation: "#ffb547",
  pool: "#34c7b5", add: "#ff6f91", multiply: "#ff8f5a", concat: "#7ed957", matmul: "#c77dff",
  other: "#9aa7ba",
};

export function kindColour(kind: string): string {
  return KINDS[kind] ?? KINDS.other;
}

// Anchors from -1 over 0 to 1. "signed" is that of the dissertation; "viridis" is perceptually
// uniform (van der Walt and Smith, CC0).
const SCALES: Record<string, string[]> = {
  signed: ["#4080ff", "#204080", "#000000", "#808080", "#ffffff"],
  viridis: ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779",
    "#6ece58", "#b5de2b", "#fde725"],
};

export type ScaleName = "signed" | "viridis";
export const SCALE_NAMES: ScaleName[] = ["signed", "viridis"];

function channels(colour: string): number[] {
  return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
}

/** 256 colours (RGBA) from -1 to 1. */
export function scaleColours(name: ScaleName): Uint8Array<ArrayBuffer> {
  const anchors = SCALES[name].map(channels);
  const table = new Uint8Array(256 * 4);
  for (let at = 0; at < 256; at++) {
    // Entry 128 is zero, 1 and 255 are the ends.
    const place = (Math.min(1, Math.max(-1, (at - 128) / 127)) + 1) / 2 * (anchors.length - 1);
    const low = Math.min(anchors.length - 2, Math.floor(place));
    for (let part = 0; part < 3; part++) {
      const [from, to] = [anchors[low][part], anchors[low + 1][part]];
      table[at * 4 + part] = Math.round(from + (to - from) * (place - low));
    }
    table[at * 4 + 3] = 255;
  }
  return table;
}

export const NOT_FINITE = [255, 0, 200];
