// Names of classes, and how scores become probabilities.

import { kindColour } from "./colours";
import { valueOf } from "./maps";
import { element, number } from "./pixels";
import type { PanelMesh } from "./panels";
import type { Building } from "./world";

const SHOWN = 5;

/** The name of a channel that stands for a class; null for other channels. */
export function className(building: Building, panel: number, channel: number): string | null {
  const { classes, labels } = building.record;
  return classes.includes(panel) ? labels[channel] ?? `class ${channel}` : null;
}

export interface Share {
  channel: number;
  name: string;
  score: number;
  /** exp(score - largest score), so that nothing overflows. */
  power: number;
  share: number;
}

/** The softmax of the scores in the page, best first; null where not all scores are there. */
export function sharesOf(building: Building): { shares: Share[]; sum: number; largest: number } | null {
  const at = building.record.scores;
  const mesh = at === null ? undefined : building.panels[at];
  const maps = mesh?.maps;
  if (!mesh || !maps || maps.channels !== mesh.panel.shape[0]) return null;
  const scores = Array.from({ length: maps.channels }, (_, channel) => valueOf(maps, channel, 0, 0));
  const largest = Math.max(...scores);
  const powers = scores.map((score) => Math.exp(score - largest));
  const sum = powers.reduce((total, one) => total + one, 0);
  const shares = scores.map((score, channel) => ({
    channel, name: className(building, at!, channel)!, score,
    power: powers[channel], share: powers[channel] / sum,
  }));
  return { shares: shares.sort((a, b) => b.score - a.score), sum, largest };
}

/** From scores to probabilities, for the likeliest classes and the chosen one. */
export function softmaxView(
  building: Building, mesh: PanelMesh, channel: number, choose: (channel: number) => void,
): Node[] {
  if (building.record.scores !== mesh.number) return [];
  const found = sharesOf(building);
  if (!found) return [];
  const { shares, sum, largest } = found;
  const best = shares.slice(0, SHOWN);
  const own = shares.findIndex((one) => one.channel === channel);
  const rows = own < SHOWN ? best : [...best, shares[own]];
  const head = element("tr", {}, ...["class", "score", "exp", "share"].map((text) =>
    element("th", { textContent: text })));
  const table = element("table", { className: "softmax" }, head, ...rows.map((one) => {
    const name = element("button", { textContent: one.name, title: `Show class ${one.channel}` });
    name.onclick = () => choose(one.channel);
    const row = element("tr", { className: one.channel === channel ? "on" : "" },
      element("td", {}, name), ...[number(one.score), number(one.power, 3), percent(one.share)].map((text) =>
        element("td", { textContent: text })));
    const colour = one.channel === channel ? "rgba(255, 181, 71, .30)" : `${kindColour("conv")}33`;
    row.style.background = `linear-gradient(90deg, ${colour} ${100 * one.share}%, transparent ${100 * one.share}%)`;
    return row;
  }));
  const count = shares.length;
  return [element("h3", { textContent: "From scores to probabilities (softmax)" }), table,
    element("p", {
      textContent: `exp is e to the power of (score − ${number(largest)}), the largest score taken ` +
        `off first, which changes no share. A share is its exp divided by the sum over all ${count} ` +
        `classes, ${number(sum)}. The shares add up to 100 %. Rank of this class: ${own + 1} of ${count}.`,
    })];
}

export function percent(share: number): string {
  const value = 100 * share;
  return `${value >= 9.95 ? value.toFixed(0) : value >= 0.095 ? value.toFixed(1) : number(value, 2)} %`;
}
