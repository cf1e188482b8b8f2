// The bar: images, colours, contrast, help.

import { SCALE_NAMES, type ScaleName } from "./colours";
import { shared, useScale } from "./material";
import { element } from "./pixels";

export interface ToolsHost {
  scale: ScaleName;
  changed(): void;
  start(): void;
  open: (() => void) | null;
  toggleList(): void;
}

const NAMES: Record<ScaleName, [string, string]> = {
  signed: ["Signed", "Negative blue, zero black, positive white"],
  viridis: ["Viridis", "Perceptually uniform: negative violet, zero green, positive yellow"],
};

export function makeTools(
  box: HTMLElement, menu: HTMLElement, help: HTMLDialogElement, host: ToolsHost,
): void {
  const set = (name: string, ...parts: Node[]): Node =>
    element("div", { className: "set", role: "group", ariaLabel: name },
      element("span", { textContent: name }), ...parts);
  const scales = choices(SCALE_NAMES.map((name) => NAMES[name]), 0, (at) => {
    host.scale = SCALE_NAMES[at];
    useScale(host.scale);
    host.changed();
  });
  const contrast = choices(
    [["Auto", "Every map uses the whole scale; maps of one pixel share that of their layer"],
      ["Channel", "Every map uses the whole scale"], ["Layer", "All maps of a layer share a scale"]],
    0,
    (at) => {
      shared.evenly.value = [2, 0, 1][at];
      host.changed();
    },
  );
  const gain = element("input", {
    type: "range", min: "0", max: "3", step: "0.1", value: "0", ariaLabel: "Gain", title: "Gain",
  });
  gain.oninput = () => {
    shared.gain.value = 2 ** Number(gain.value);
    host.changed();
  };
  const button = (text: string, act: () => void, title = text): Node =>
    element("button", { textContent: text, onclick: act, title });
  const acts = [button("Start", () => host.start(), "Back to the start (Home)")];
  if (host.open) acts.unshift(button("Open image…", host.open));
  const layers = element("button", { textContent: "Layers", onclick: () => host.toggleList() });
  layers.className = "narrow";
  box.append(set("Colours", ...scales), set("Contrast", ...contrast), set("Gain", gain));
  (box.lastElementChild as HTMLElement).classList.add("wide");
  menu.append(layers, ...acts, button("Help", () => help.showModal(), "Help (?)"));
  fillHelp(help);
}

function choices(
  names: [string, string][], first: number, choose: (at: number) => void,
): HTMLButtonElement[] {
  const buttons = names.map(([text, title], at) => {
    const button = element("button", { textContent: text, title });
    button.setAttribute("aria-pressed", String(at === first));
    button.onclick = () => {
      buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      choose(at);
    };
    return button;
  });
  return buttons;
}

const KEYS: [string, string][] = [
  ["W A S D, arrows", "walk; with Shift four times as fast"],
  ["E, Q", "up and down"],
  ["drag", "look around; with the right button, move aside"],
  ["wheel", "move to where the pointer is, or away"],
  ["touch", "one finger looks, two move, spreading them goes forward"],
  ["click", "look at a channel; a double click goes to its layer"],
  ["click in the details", "on a pixel of the map: how its value is made"],
  ["click in the strip", "go to that layer; the arrow is where you are"],
  ["/", "find a layer or a class; Enter goes there"],
  ["[ and ]", "to the layer before, and to the next"],
  [", and .", "the channel before, and the next"],
  ["F", "go to the chosen layer"],
  ["V", "see the chosen channel with those that feed it"],
  ["X", "hide or show it"],
  ["Home", "back to the start"],
  ["Esc", "close what is open"],
];

function fillHelp(help: HTMLDialogElement): void {
  const table = element("table");
  for (const [keys, text] of KEYS) {
    table.append(element("tr", {}, element("td", { textContent: keys }), element("td", { textContent: text })));
  }
  const close = element("button", { textContent: "Close", onclick: () => help.close() });
  close.style.marginTop = "1rem";
  help.append(element("h2", { textContent: "Walking" }), table,
    element("p", { textContent: "Data flows away from the image. What stands side by side are branches; strips on the floor lead from layer to layer, with the shape that passes and what happens to it on the way. Frames tell kinds of layers apart, as the dots in the list do. Lines lead to a chosen channel from those that feed it: at most twelve, the brighter the stronger." }),
    close);
}

export function makePictures(
  box: HTMLElement, canvases: HTMLCanvasElement[], names: string[], at: number,
  choose: (at: number) => void,
): void {
  box.replaceChildren(...(canvases.length < 2 ? [] : canvases).map((canvas, place) => {
    const button = element("button", { title: names[place], ariaLabel: names[place] }, canvas);
    button.setAttribute("aria-pressed", String(place === at));
    button.onclick = () => choose(place);
    return button;
  }));
}
