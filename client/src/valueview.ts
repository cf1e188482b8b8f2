// "How this value is made", as the details show it.

import type { ScaleName } from "./colours";
import { element, number, valuesCanvas } from "./pixels";
import type { Building } from "./world";
import { agrees, type Explanation, type Term } from "./values";

const SHOWN = 4;
const WIDEST = 5; // columns of a table of products that fit

export function explanationView(
  found: Explanation, building: Building, scale: ScaleName,
  choose: (panel: number, channel: number) => void,
): Node[] {
  const head = element("h3", { textContent: "How this value is made" });
  const [rows, columns] = building.panels.find(({ panel }) => panel.name === found.layer)!.panel.shape.slice(1);
  const where = rows * columns > 1 ? `Row ${found.row}, column ${found.column}: ` : "";
  const parts: Node[] = [head, element("p", { textContent: `${where}${number(found.value)}` })];
  if (found.why) return [...parts, element("p", { className: "why", textContent: found.why })];
  parts.push(element("p", { textContent: sentence(found) }));
  const shown = found.terms.slice(0, SHOWN);
  const large = Math.max(...shown.map(({ patch }) => farthest(patch))) || 1;
  const heavy = Math.max(...shown.map(({ kernel }) => kernel ? farthest(kernel) : 0)) || 1;
  const list = element("div", { className: "terms" });
  for (const term of shown) list.append(...termRow(found, term, building, scale, [large, heavy], choose));
  parts.push(list);
  const first = shown[0];
  if (first?.kernel && found.how === "conv" && first.patch.length > 1 && found.window[1] <= WIDEST) {
    parts.push(products(found, first));
  }
  parts.push(totals(found, shown), element("p", { className: "verdict", textContent: verdict(found) }));
  return parts;
}

function farthest(values: Float32Array): number {
  return values.reduce((most, one) => Math.max(most, Math.abs(one)), 0);
}

function sentence({ how, window, terms, rest }: Explanation): string {
  const [height, width] = window;
  const size = `${height}×${width}`;
  if (how === "max") return `The largest of the ${size} values that the window covers.`;
  if (how === "mean") return `The mean of the ${size} values that the window covers.`;
  if (how === "sum") return "The values of the maps at this place, added.";
  if (how === "relu") return "The value of the input if it is positive, else 0.";
  if (how === "relu6") return "The value of the input, at least 0 and at most 6.";
  const count = terms.length + (rest?.kernels ?? 0);
  if (count === 1) return `The patch of ${size} values times the kernel, element by element, added.`;
  return height * width === 1
    ? `Each of ${count} inputs times its weight, added.`
    : `Each of ${count} patches of ${size} values times its kernel, element by element, added.`;
}

function termRow(
  found: Explanation, term: Term, building: Building, scale: ScaleName, [large, heavy]: number[],
  choose: (panel: number, channel: number) => void,
): Node[] {
  const [height, width] = found.window;
  const source = building.panels[term.panel].panel;
  const button = element("button", {
    textContent: found.how === "sum" ? source.name : `channel ${term.channel}`,
    title: `Show channel ${term.channel} of ${source.name}`,
  });
  button.onclick = () => choose(term.panel, term.channel);
  const single = term.patch.length === 1;
  const patch = single ? element("span", { textContent: number(term.patch[0], 3) })
    : valuesCanvas(term.patch, width, height, large, scale);
  if (!term.kernel) return [button, patch, element("span"), element("span"), element("b", { textContent: number(term.sum, 3) })];
  const kernel = term.kernel.length === 1 ? element("span", { textContent: number(term.kernel[0], 3) })
    : valuesCanvas(term.kernel, width, height, heavy, scale);
  return [button, patch, element("span", { textContent: "×" }), kernel,
    element("b", { textContent: number(term.sum, 3) })];
}

/** Every product of the strongest patch: value, weight, and what they make. */
function products({ window }: Explanation, { channel, patch, kernel }: Term): Node {
  const table = element("table", { className: "products" });
  for (let row = 0; row < window[0]; row++) {
    table.append(element("tr", {}, ...Array.from({ length: window[1] }, (_, column) => {
      const at = row * window[1] + column;
      return element("td", {}, number(patch[at], 2), element("br"), `× ${number(kernel![at], 2)}`, element("br"),
        element("b", { textContent: number(patch[at] * kernel![at], 2) }));
    })));
  }
  return element("details", { open: false },
    element("summary", { textContent: `The products of channel ${channel}` }), table);
}

function totals(found: Explanation, shown: Term[]): Node {
  const list = element("dl");
  const add = (term: string, value: number): void => {
    list.append(element("dt", { textContent: term }), element("dd", { textContent: number(value) }));
  };
  const others = found.terms.slice(shown.length);
  if (others.length) add(`${others.length} more`, others.reduce((sum, { sum: one }) => sum + one, 0));
  if (found.rest) add(`${found.rest.kernels} not in the page`, found.rest.sum);
  if (found.how === "conv") add("Bias", found.bias);
  else if (found.bias) add("Shift of the batch norm", found.bias);
  if (found.result !== null) add(found.how === "conv" ? "Sum" : "Result", found.result);
  add("Value in the map", found.value);
  return list;
}

export function verdict(found: Explanation): string {
  if (found.rest) {
    return `The page holds ${found.terms.length} of ${found.terms.length + found.rest.kernels} kernels of this ` +
      "filter, since the layer is wide: the others make up the difference, and the sum is not checked.";
  }
  const apart = number(Math.abs(found.result! - found.value), 2);
  const allowed = number(found.slack, 2);
  return agrees(found)
    ? `Equal to the value in the map: they differ by ${apart}, and rounded bytes allow ${allowed}.`
    : `This differs from the value in the map by ${apart}, where rounded bytes allow ${allowed}: the layer does more than this.`;
}
