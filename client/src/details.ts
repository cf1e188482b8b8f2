// The panel at the side: everything that is known of one channel.

import { className, softmaxView } from "./classes";
import { unpack, unpackFloats, unpackShorts } from "./codec";
import { kindColour, type ScaleName } from "./colours";
import { activationsView, weightsView } from "./histograms";
import { FACTS, valueOf } from "./maps";
import type { PanelMesh } from "./panels";
import { element, mapCanvas, number, pictureCanvas, scaleCanvas } from "./pixels";
import type { MadeRecord, SceneRecord, WeightsRecord } from "./scene";
import type { Selection } from "./selection";
import { explain } from "./values";
import { explanationView } from "./valueview";
import type { Building } from "./world";

export interface DetailsHost {
  scene: SceneRecord;
  blobs: string[];
  buildings: Building[];
  select(selection: Selection | null): void;
  visit(panel: PanelMesh): void;
  hide(panel: PanelMesh, hidden: boolean): void;
  /** What else can be done with a channel, such as making its picture. */
  offer(selection: Selection): Node[];
  /** Go where the chosen channel is seen together with those that feed it. */
  overlook(selection: Selection): void;
  /** The image that is shown, as the network sees it. */
  photo(): HTMLCanvasElement | null;
}

export class Details {
  private shown = 0;

  constructor(private readonly box: HTMLElement, private readonly host: DetailsHost) {}

  get width(): number {
    return this.box.hidden ? 0 : this.box.offsetWidth + 14;
  }

  clear(): void {
    this.shown++;
    this.box.hidden = true;
    document.body.classList.remove("reading");
    this.box.replaceChildren();
  }

  async show(selection: Selection, scale: ScaleName): Promise<void> {
    const turn = ++this.shown;
    const { panel: mesh, channel } = selection;
    const { panel } = mesh;
    const building = this.host.buildings[mesh.network];
    const parts: (Node | string)[] = [
      this.head(mesh), this.stepper(selection), ...this.name(building, selection),
      this.actions(selection), ...this.photo(mesh),
      ...this.largeViews(selection, scale), this.facts(mesh, channel),
      ...softmaxView(building, mesh, channel, (chosen) => this.host.select({ panel: mesh, channel: chosen })),
    ];
    const [made, explained, weights] = await Promise.all([
      this.made(building, mesh.number, channel), this.explained(building, selection, scale),
      panel.weights ? this.weights(building, mesh, channel, panel.weights, scale) : [],
    ]);
    if (turn !== this.shown) return;
    const counts = mesh.maps ? activationsView(mesh.maps, channel) : [];
    if (panel.weights) counts.push(...weightsView(panel.weights));
    const top = this.box.hidden ? 0 : this.box.scrollTop;
    this.box.replaceChildren(...parts, ...explained, ...made, ...this.host.offer(selection), ...weights, ...counts);
    this.box.hidden = false;
    this.box.scrollTop = top;
    document.body.classList.add("reading");
  }

  private head(mesh: PanelMesh): Node {
    const { panel } = mesh;
    const close = element("button", { className: "close", ariaLabel: "Close", textContent: "×" });
    close.onclick = () => this.host.select(null);
    const dot = element("i");
    dot.style.background = kindColour(panel.kind);
    const name = this.host.buildings.length > 1
      ? `${this.host.buildings[mesh.network].record.name} · ` : "";
    return element("div", {}, close, element("h2", { textContent: panel.name }),
      element("div", { className: "sub" }, dot, `${name}${panel.text} · ${panel.shape.join("×")}`));
  }

  private stepper({ panel, channel }: Selection): Node {
    const last = panel.panel.shape[0] - 1;
    const to = (wanted: number): void => this.host.select({
      panel, channel: Math.max(0, Math.min(last, wanted)),
    });
    const button = (text: string, label: string, by: number): HTMLButtonElement => {
      const made = element("button", { textContent: text, ariaLabel: label, title: label });
      made.onclick = () => to(channel + by);
      made.disabled = channel + by < 0 || channel + by > last;
      return made;
    };
    const input = element("input", {
      type: "number", min: "0", max: String(last), value: String(channel), ariaLabel: "Channel",
    });
    input.onchange = () => to(Math.round(Number(input.value)) || 0);
    return element("div", { className: "step" }, "Channel", input,
      element("span", { textContent: `of ${last + 1}` }),
      button("‹", "Previous channel", -1), button("›", "Next channel", 1));
  }

  /** The name of the class that a channel stands for. */
  private name(building: Building, { panel, channel }: Selection): Node[] {
    const name = className(building, panel.number, channel);
    return name ? [element("p", { className: "class", textContent: name })] : [];
  }

  /** The image in its colours, where the image is what is shown. */
  private photo({ panel }: PanelMesh): Node[] {
    const canvas = panel.kind === "input" ? this.host.photo() : null;
    if (!canvas) return [];
    if (canvas.width > 64) canvas.style.imageRendering = "auto";
    return [element("figure", { className: "photo" }, canvas, element("figcaption", {
      textContent: "The image as the network sees it; below, one channel with its mean taken off.",
    }))];
  }

  private async explained(building: Building, selection: Selection, scale: ScaleName): Promise<Node[]> {
    const { panel, channel } = selection;
    const pixel = selection.pixel ?? (isVector(panel) ? [0, 0] : null);
    const { maps } = panel;
    if (!maps || channel >= maps.channels) return [];
    if (!pixel) return [element("p", { className: "hint", textContent: "Click a pixel of the map to see how its value is made." })];
    if (pixel[0] >= maps.height || pixel[1] >= maps.width) return [];
    const found = await explain(building, panel, channel, pixel[0], pixel[1], this.host.blobs);
    return explanationView(found, building, scale, (number, read) => {
      const source = building.panels[number];
      this.host.select({ panel: source, channel: read });
      this.host.visit(source);
    });
  }

  private largeViews(selection: Selection, scale: ScaleName): Node[] {
    const twin = this.twin(selection);
    const own = this.largeView(selection, scale);
    if (twin === undefined) return own;
    const { buildings } = this.host;
    const [first, second] = selection.panel.network === 0
      ? [own, twin ? this.largeView(twin, scale) : null]
      : [twin ? this.largeView(twin, scale) : null, own];
    const figure = (views: Node[] | null, at: number): Node => element("figure", {},
      ...(views ?? [element("p", { textContent: "removed here" })]),
      element("figcaption", { textContent: buildings[at].record.name }));
    return [element("div", { className: "pair" }, figure(first, 0), figure(second, 1))];
  }

  /** The same channel of the other network; null where it was removed, undefined where unknown. */
  private twin({ panel, channel }: Selection): Selection | null | undefined {
    const { buildings } = this.host;
    if (buildings.length < 2) return undefined;
    const other = buildings[1 - panel.network].panels.find((one) => one.panel.name === panel.panel.name);
    if (!other || other.slotCount !== panel.slotCount) return undefined;
    const found = other.channelAt(panel.slot(channel));
    return found < 0 ? null : { panel: other, channel: found };
  }

  private largeView({ panel, channel, pixel }: Selection, scale: ScaleName): Node[] {
    const { maps } = panel;
    if (!maps || channel >= maps.channels) {
      return [element("p", { textContent: "This channel is not in the page." })];
    }
    if (isVector(panel)) return this.vector(panel, channel);
    const size = maps.width * maps.height;
    const bytes = maps.values.subarray(channel * size, (channel + 1) * size);
    const canvas = mapCanvas(bytes, maps.width, maps.height, scale);
    const bound = maps.bound[channel];
    const middle = scaleCanvas(scale);
    const low = element("span", { textContent: number(-bound) });
    const high = element("span", { textContent: number(bound) });
    const read = element("p", { textContent: " " });
    const under = (event: MouseEvent): [number, number] => {
      const box = canvas.getBoundingClientRect();
      const place = (at: number, size: number, count: number): number =>
        Math.max(0, Math.min(count - 1, Math.floor((at / size) * count)));
      return [place(event.clientY - box.top, box.height, maps.height),
        place(event.clientX - box.left, box.width, maps.width)];
    };
    canvas.onpointermove = (event) => {
      const [row, column] = under(event);
      read.textContent = `row ${row}, column ${column}: ${number(valueOf(maps, channel, row, column))}`;
    };
    canvas.onpointerleave = () => { read.textContent = " "; };
    canvas.onclick = (event) => this.host.select({ panel, channel, pixel: under(event) });
    const frame = element("div", { className: "map" }, canvas);
    if (pixel && pixel[0] < maps.height && pixel[1] < maps.width) {
      const [down, across] = [100 / maps.height, 100 / maps.width];
      const box = element("i");
      box.style.cssText = `top:${pixel[0] * down}%;left:${pixel[1] * across}%;width:${across}%;height:${down}%`;
      frame.append(box);
    }
    return [frame, element("div", { className: "scale" }, low, middle, high), read];
  }

  /** A layer of one value per channel: all of them as bars, which can be chosen. */
  private vector(mesh: PanelMesh, channel: number): Node[] {
    const maps = mesh.maps!;
    const canvas = element("canvas", { width: 576, height: 160, className: "chart values" });
    const pen = canvas.getContext("2d")!;
    const values = Array.from({ length: maps.channels }, (_, at) => valueOf(maps, at, 0, 0));
    const finite = values.filter(Number.isFinite);
    const [low, high] = [Math.min(0, ...finite), Math.max(0, ...finite)];
    const y = (value: number): number => 6 + ((high - value) / (high - low || 1)) * 148;
    const bar = canvas.width / values.length;
    const draw = (at: number, colour: string, wide: number): void => {
      pen.fillStyle = colour;
      const [top, end] = [y(Math.max(0, values[at])), y(Math.min(0, values[at]))];
      pen.fillRect((at + 0.5) * bar - wide / 2, top, wide, Math.max(1, end - top));
    };
    values.forEach((value, at) => draw(at, value < 0 ? "#3f6fd0" : "#c9d6ea", Math.max(1, bar * 0.8)));
    draw(channel, "#ffb547", Math.max(5, bar * 0.8));
    const building = this.host.buildings[mesh.network];
    const under = (event: MouseEvent): number => {
      const box = canvas.getBoundingClientRect();
      return Math.max(0, Math.min(values.length - 1, Math.floor(((event.clientX - box.left) / box.width) * values.length)));
    };
    const read = element("p", { textContent: " " });
    canvas.onpointermove = (event) => {
      const at = under(event);
      read.textContent = `${className(building, mesh.number, at) ?? `channel ${at}`}: ${number(values[at])}`;
    };
    canvas.onpointerleave = () => { read.textContent = " "; };
    canvas.onclick = (event) => this.host.select({ panel: mesh, channel: under(event) });
    return [element("p", { className: "value" }, number(values[channel])), canvas,
      element("div", { className: "scale" }, element("span", { textContent: "channel 0" }),
        element("span", { textContent: String(values.length - 1) })), read];
  }

  private facts(mesh: PanelMesh, channel: number): Node {
    const { maps } = mesh;
    const list = element("dl");
    if (!maps || channel >= maps.channels || isVector(mesh)) return list;
    const facts = maps.facts.subarray(channel * FACTS, (channel + 1) * FACTS);
    const add = (term: string, text: string): void =>
      list.append(element("dt", { textContent: term }), element("dd", { textContent: text }));
    add("Range", `${number(facts[0])} to ${number(facts[1])}`);
    add("Mean", number(facts[2]));
    add("Deviation", number(facts[3]));
    add("Above zero", `${number(100 * facts[4])} %`);
    const [, height, width] = mesh.panel.shape;
    if (maps.height !== height || maps.width !== width) {
      add("Shown at", `${maps.height}×${maps.width} of ${height}×${width}`);
    }
    return list;
  }

  private async made(building: Building, panel: number, channel: number): Promise<Node[]> {
    const found = building.record.made.find(([p, unit]) => p === panel && unit === channel);
    if (!found) return [];
    const figures = await Promise.all(found[2].map((one) => this.figure(one)));
    return [element("h3", { textContent: "What it looks for" }),
      element("div", { className: figures.length > 1 ? "pair" : "" }, ...figures)];
  }

  private async figure(one: MadeRecord): Promise<Node> {
    const canvas = await pictureCanvas(one, this.host.blobs);
    if (canvas.width > 32) canvas.style.imageRendering = "auto";
    const caption = `${one.how[0].toUpperCase()}${one.how.slice(1)}, ${one.text}`;
    return element("figure", {}, canvas, element("figcaption", { textContent: caption }));
  }

  private async weights(
    building: Building, mesh: PanelMesh, channel: number, record: WeightsRecord, scale: ScaleName,
  ): Promise<Node[]> {
    const { blobs } = this.host;
    const [filters, inputs, height, width] = record.shape;
    const kept = record.kept;
    const [chosen, kernels, bound, norms] = await Promise.all([
      unpackShorts(blobs[record.inputs], filters * kept), unpack(blobs[record.kernels], width),
      unpackFloats(blobs[record.bound], filters), unpackFloats(blobs[record.norms], filters),
    ]);
    const list = element("dl");
    const add = (term: string, text: string): void =>
      list.append(element("dt", { textContent: term }), element("dd", { textContent: text }));
    add("Shape", `${inputs}×${height}×${width}`);
    add("Length", number(norms[channel]));
    add("Largest weight", number(bound[channel]));
    if (record.scores !== undefined && record.places !== undefined) {
      const [scores, places] = await Promise.all([
        unpackFloats(blobs[record.scores], filters), unpackShorts(blobs[record.places], filters),
      ]);
      add(`Score by ${building.record.ranking}`, number(scores[channel]));
      add("Place in its layer", `${places[channel] + 1} of ${filters}`);
    }
    const grid = element("div", { className: "kernels" });
    const size = height * width;
    for (let at = 0; at < kept; at++) {
      const start = (channel * kept + at) * size;
      const canvas = mapCanvas(kernels.subarray(start, start + size), width, height, scale);
      const input = chosen[channel * kept + at];
      grid.append(this.kernelButton(building, mesh, channel, record, input, canvas));
    }
    const what = kept < inputs
      ? `The ${kept} kernels of largest norm among ${inputs}, with the channel that each reads.`
      : "Each kernel with the channel that it reads.";
    return [element("h3", { textContent: "Filter" }), grid,
      element("p", { textContent: what }), list, ...await this.spectrum(record, channel)];
  }

  private kernelButton(
    building: Building, mesh: PanelMesh, channel: number, record: WeightsRecord, input: number,
    canvas: HTMLCanvasElement,
  ): Node {
    const [filters, inputs] = record.shape;
    const group = Math.floor(channel / (filters / record.groups));
    const read = group * inputs + input;
    const source = building.panels[mesh.panel.feeds[0]?.[0]];
    const button = element("button", { title: `Reads channel ${read}` }, canvas, String(read));
    button.disabled = !mesh.panel.links[0]?.how || source?.panel.shape[0] !== inputs * record.groups;
    button.onclick = () => {
      this.host.select({ panel: source, channel: read });
      this.host.visit(source);
    };
    return button;
  }

  private async spectrum(record: WeightsRecord, channel: number): Promise<Node[]> {
    if (record.spectra === undefined || !record.spectrum) return [];
    const [filters, , height, width] = record.shape;
    const all = await unpackFloats(this.host.blobs[record.spectra], filters * record.spectrum);
    const own = all.subarray(channel * record.spectrum, (channel + 1) * record.spectrum);
    const most = own.reduce((a, b) => Math.max(a, b), 0) || 1;
    const canvas = element("canvas", { width: 576, height: 120 });
    canvas.style.background = "none";
    canvas.style.imageRendering = "auto";
    const pen = canvas.getContext("2d")!;
    const bar = canvas.width / own.length;
    own.forEach((energy, at) => {
      pen.fillStyle = at ? "#4f9dff" : "#ffb547";
      const tall = Math.max(2, (energy / most) * (canvas.height - 4));
      pen.fillRect(at * bar + 2, canvas.height - tall, bar - 4, tall);
    });
    const text = height === width
      ? "Energy by frequency of the DCT, the mean on the left (ExplainSteer, Eq. 6)."
      : "Energy by filter of the DCT, the mean on the left (ExplainSteer, Eq. 3).";
    return [element("h3", { textContent: "Spectrum" }), canvas, element("p", { textContent: text })];
  }

  private actions(selection: Selection): Node {
    const { panel: mesh } = selection;
    const go = element("button", { textContent: "Go there" });
    go.onclick = () => this.host.visit(mesh);
    const hide = element("button", {
      textContent: mesh.hidden ? "Show layer" : "Hide layer",
    });
    hide.onclick = () => {
      this.host.hide(mesh, !mesh.hidden);
      hide.textContent = mesh.hidden ? "Show layer" : "Hide layer";
    };
    const acts = element("div", { className: "acts" }, go, hide);
    if (mesh.panel.feeds.length) {
      const feeds = element("button", {
        textContent: "What feeds it", title: "See it together with the channels that feed it (V)",
      });
      feeds.onclick = () => this.host.overlook(selection);
      acts.append(feeds);
    }
    return acts;
  }
}

function isVector({ maps }: PanelMesh): boolean {
  return maps !== null && maps.height * maps.width === 1;
}
