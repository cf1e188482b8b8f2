// Which channel is looked at.

import type { PanelMesh } from "./panels";

export interface Selection {
  panel: PanelMesh;
  channel: number;
  /** Row and column of the pixel whose value is explained. */
  pixel?: [number, number];
}

export function same(one: Selection | null, two: Selection | null): boolean {
  return one?.panel === two?.panel && one?.channel === two?.channel;
}
