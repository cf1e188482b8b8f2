// The walk: from the scene in the page to a world that can be walked through.

import { makeTools, makePictures } from "./tools";
import { className } from "./classes";
import type { ScaleName } from "./colours";
import { Details } from "./details";
import { feedersOf } from "./feeders";
import { offerHeadset } from "./headset";
import { List } from "./list";
import { Live } from "./live";
import { Maker } from "./making";
import { readMaps } from "./maps";
import { MiniMap } from "./minimap";
import { PanelMesh } from "./panels";
import { pictureCanvas } from "./pixels";
import { readPage, type Answer, type SceneRecord } from "./scene";
import { same, type Selection } from "./selection";
import { explain } from "./values";
import { World } from "./world";
import { scripting, type Walk } from "./scripting";
import { Tour } from "./tour";

declare global {
  interface Window {
    walk: Walk;
  }
}

export class App {
  readonly scene: SceneRecord;
  readonly blobs: string[];
  readonly world: World;
  readonly details: Details;
  readonly list: List;
  readonly map: MiniMap;
  scale: ScaleName = "signed";
  selection: Selection | null = null;
  picture = -1;
  live: Live | null = null;
  maker: Maker | null = null;
  private pointed: Selection | null = null;
  pictures: HTMLCanvasElement[] = [];
  private readonly tip = document.getElementById("tip")!;
  private readonly bar = document.getElementById("loading")!.firstElementChild as HTMLElement;

  constructor(view: HTMLCanvasElement) {
    ({ scene: this.scene, blobs: this.blobs } = readPage());
    this.world = new World(view);
    this.world.build(this.scene.networks);
    const { buildings } = this.world;
    this.details = new Details(document.getElementById("details")!, {
      scene: this.scene, blobs: this.blobs, buildings,
      select: (selection) => this.select(selection),
      visit: (panel) => this.visit(panel),
      hide: (panel, hidden) => this.hide(panel, hidden),
      offer: (selection) => this.maker?.parts(selection) ?? [],
      overlook: (selection) => this.overlook(selection),
      photo: () => (this.pictures[this.picture] ? copied(this.pictures[this.picture]) : null),
    });
    this.list = new List(
      document.getElementById("list")!, document.getElementById("search") as HTMLInputElement,
      document.getElementById("count")!, buildings,
      (panel, channel) => this.goTo(panel, channel),
      (panel, hidden) => this.hide(panel, hidden),
    );
    this.map = new MiniMap(document.getElementById("map")!, this.world, (panel) => this.goTo(panel),
      (panel, x, y) => {
        if (panel) this.showTip(panel, null, x, y);
        else this.tip.style.display = "none";
      });
    this.world.onFrame = () => this.map.follow();
    this.serve();
    this.tools();
    this.listen();
    this.describe();
    this.fitList();
    if (this.scene.tour) new Tour(this, this.scene.tour).go();
  }

  private serve(): void {
    const { server } = this.scene;
    if (!server) return;
    this.live = new Live(server.images, server.largest, (answer) => this.take(answer),
      (text) => this.say(text));
    this.maker = new Maker(server.made, server.able, {
      blobs: this.blobs,
      made: (network) => this.world.buildings[network].record.made,
      changed: () => { if (this.selection) void this.details.show(this.selection, this.scale); },
      feed: (id, name) => void this.live!.feed(id, name),
    });
  }

  private tools(): void {
    const help = document.getElementById("help") as HTMLDialogElement;
    const app = this;
    const menu = document.getElementById("menu")!;
    makeTools(document.getElementById("tools")!, menu, help, {
      get scale() { return app.scale; },
      set scale(name) { app.scale = name; },
      changed: () => {
        this.world.invalidate();
        if (this.selection) void this.details.show(this.selection, this.scale);
      },
      start: () => this.world.controls.fly(this.world.start()),
      open: this.live ? () => this.live!.choose() : null,
      toggleList: () => document.body.classList.toggle("listing"),
    });
    void offerHeadset(this.world, menu,
      (selection) => this.select(selection), () => this.scale);
  }

  private describe(): void {
    const { networks, limit, version } = this.scene;
    const parts = networks.map((one) => one.architecture ?? one.name);
    const text = [...new Set(parts), `filtersurgeon ${version}`].join(" · ");
    const about = document.getElementById("about")!;
    about.textContent = text;
    for (const note of [limit.text, ...networks.flatMap((one) => one.notes)]) {
      if (note) about.append(document.createElement("br"), `${note[0].toUpperCase()}${note.slice(1)}.`);
    }
  }

  /** Tell the style sheet how high the head and the bar are, which others stand clear of. */
  private fitList(): void {
    const boxes = ["head", "bar", "map"].map((id) => document.getElementById(id)!);
    const place = (): void => {
      for (const box of boxes) {
        document.documentElement.style.setProperty(`--${box.id}`, `${box.offsetHeight}px`);
      }
    };
    place();
    for (const box of boxes) new ResizeObserver(place).observe(box);
    this.world.hiddenBands = (beside) => {
      const [, , map] = boxes;
      const sheet = document.getElementById("details")!;
      const most = parseFloat(getComputedStyle(sheet).maxHeight) || 0;
      return [map.offsetTop + map.offsetHeight, window.innerHeight - boxes[1].offsetTop + (this.selection && !beside ? most : 0)];
    };
  }

  private goTo(panel: PanelMesh, channel?: number): void {
    const before = this.selection;
    this.select({ panel, channel: channel ?? (before?.panel === panel ? before.channel : 0) });
    this.visit(panel);
    document.body.classList.remove("listing");
  }

  /** Fly to where the chosen channel and those that feed it are seen together. */
  overlook({ panel }: Selection): void {
    const { panels } = this.world.buildings[panel.network];
    const lines = this.world.lines.shown.map((one) => one.panel);
    const sources = lines.length ? lines : panel.panel.feeds.map(([number]) => panels[number]);
    this.world.overlook(panel, [...new Set(sources)]);
  }

  private listen(): void {
    const { controls, view } = this.world;
    controls.onClick = (x, y, twice) => this.click(x, y, twice);
    controls.onPoint = (x, y) => this.point(x, y);
    view.addEventListener("pointerleave", () => this.point(-1, -1));
    window.addEventListener("keydown", (event) => this.key(event));
  }

  private key(event: KeyboardEvent): void {
    if (event.target instanceof HTMLInputElement || event.ctrlKey || event.metaKey || event.altKey) return;
    const help = document.getElementById("help") as HTMLDialogElement;
    if (help.open) {
      if (event.key === "Escape" || event.key === "?") {
        event.preventDefault();
        help.close();
      }
      return;
    }
    if (event.target instanceof HTMLSelectElement && event.key !== "Escape") return;
    const act = this.keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  private readonly keys: Record<string, () => void> = {
    "/": () => this.list.focus(),
    "?": () => (document.getElementById("help") as HTMLDialogElement).showModal(),
    "[": () => this.neighbour(-1),
    "]": () => this.neighbour(1),
    ",": () => this.step(-1),
    ".": () => this.step(1),
    f: () => this.selection && this.visit(this.selection.panel),
    v: () => this.selection && this.overlook(this.selection),
    x: () => this.selection && this.hide(this.selection.panel, !this.selection.panel.hidden),
    Home: () => this.world.controls.fly(this.world.start()),
    Escape: () => this.select(null),
  };

  private step(by: number): void {
    if (!this.selection) return;
    const { panel, channel } = this.selection;
    const last = panel.panel.shape[0] - 1;
    this.select({ panel, channel: Math.max(0, Math.min(last, channel + by)) });
  }

  private neighbour(by: number): void {
    const network = this.selection?.panel.network ?? 0;
    const { panels } = this.world.buildings[network];
    const at = (this.selection?.panel.number ?? -1) + by;
    const panel = panels[Math.max(0, Math.min(panels.length - 1, at))];
    this.select({ panel, channel: 0 });
    this.visit(panel);
  }

  private click(x: number, y: number, twice: boolean): void {
    const met = this.world.pick(x, y);
    if (!met) {
      if (!twice) this.select(null);
      return;
    }
    if (met.hit && met.hit.channel >= 0) this.select({ panel: met.panel, channel: met.hit.channel });
    if (twice) this.visit(met.panel);
  }

  private point(x: number, y: number): void {
    const met = x < 0 ? null : this.world.pick(x, y);
    const pointed = met?.hit && met.hit.channel >= 0
      ? { panel: met.panel, channel: met.hit.channel } : null;
    this.world.view.classList.toggle("over", pointed !== null);
    if (met) this.showTip(met.panel, met.hit?.channel ?? null, x, y);
    else this.tip.style.display = "none";
    if (same(pointed, this.pointed)) return;
    const before = this.pointed;
    this.pointed = pointed;
    for (const panel of new Set([before?.panel, pointed?.panel])) if (panel) this.mark(panel);
    this.world.invalidate();
  }

  private showTip(mesh: PanelMesh, channel: number | null, x: number, y: number): void {
    const name = channel === null ? null : className(this.world.buildings[mesh.network], mesh.number, channel);
    const what = channel === null ? mesh.panel.text : channel < 0 ? "removed"
      : name ? `${name} (${channel})` : `channel ${channel}`;
    const soft = document.createElement("em");
    soft.textContent = ` ${what}`;
    this.tip.replaceChildren(mesh.panel.name, soft);
    this.tip.style.display = "block";
    const { offsetWidth, offsetHeight } = this.tip;
    this.tip.style.left = `${Math.min(window.innerWidth - offsetWidth - 8, x + 14)}px`;
    this.tip.style.top = `${Math.max(8, y - offsetHeight - 12)}px`;
  }

  private say(text: string): void {
    if (!text) {
      this.tip.style.display = "none";
      return;
    }
    this.tip.textContent = text;
    this.tip.style.display = "block";
    this.tip.style.left = `${(window.innerWidth - this.tip.offsetWidth) / 2}px`;
    this.tip.style.top = "20px";
  }

  private mark(panel: PanelMesh): void {
    const of = (one: Selection | null): number => (one?.panel === panel ? one.channel : -1);
    panel.mark(of(this.selection), of(this.pointed));
  }

  select(selection: Selection | null): void {
    const before = this.selection;
    // The pixel stays while channels of one layer are looked at.
    if (selection && before?.panel === selection.panel) selection = { pixel: before.pixel, ...selection };
    this.selection = selection;
    for (const panel of new Set([before?.panel, selection?.panel])) if (panel) this.mark(panel);
    this.list.mark(selection?.panel ?? null);
    this.map.mark(selection?.panel ?? null);
    void this.drawLines();
    if (selection) void this.details.show(selection, this.scale);
    else this.details.clear();
    this.world.invalidate();
  }

  /** Lead lines to the chosen channel from those that feed it. */
  async drawLines(): Promise<void> {
    const { selection } = this;
    if (!selection) {
      this.world.lines.clear();
      return;
    }
    const { panel, channel, pixel } = selection;
    const building = this.world.buildings[panel.network];
    const found = pixel ? await explain(building, panel, channel, pixel[0], pixel[1], this.blobs) : null;
    const feeders = await feedersOf(building, selection, this.blobs, found);
    if (this.selection !== selection) return;
    this.world.lines.show(selection, feeders);
    this.world.invalidate();
  }

  visit(panel: PanelMesh, jump = false): void {
    this.world.visit(panel, jump);
  }

  hide(panel: PanelMesh, hidden: boolean): void {
    panel.hidden = hidden;
    this.list.refresh();
    this.map.draw();
    this.world.invalidate();
  }

  /** Show one of the images; ends when all its maps are there. */
  async show(picture: number): Promise<void> {
    this.picture = picture;
    await this.drawPictures();
    if (this.picture !== picture) return;
    const { buildings } = this.world;
    const total = buildings.reduce((sum, { panels }) => sum + panels.length, 0);
    let done = 0;
    this.bar.parentElement!.hidden = false;
    for (const [at, building] of buildings.entries()) {
      const seen = building.record.seen[picture];
      building.entrance.showPicture(copied(this.pictures[picture]));
      building.entrance.showResults(seen.guesses);
      building.panels[0].showPhoto(copied(this.pictures[picture]));
      await readMaps(seen, this.blobs, (panel, maps) => {
        if (this.picture !== picture) return;
        this.world.show(at, panel, maps);
        this.bar.style.width = `${(100 * ++done) / total}%`;
      });
      if (this.picture !== picture) return;
    }
    this.bar.parentElement!.hidden = true;
    this.bar.style.width = "0";
    this.world.invalidate();
    if (this.selection) {
      void this.details.show(this.selection, this.scale);
      void this.drawLines();
    }
    this.world.invalidate();
  }

  private async drawPictures(): Promise<void> {
    const { pictures } = this.scene;
    for (let at = this.pictures.length; at < pictures.length; at++) {
      this.pictures.push(await pictureCanvas(pictures[at], this.blobs));
    }
    makePictures(document.getElementById("pictures")!, this.pictures.map(copied),
      pictures.map((one) => one.name), this.picture, (at) => void this.show(at));
  }

  /** Add what the server says of an image, and show it. */
  private async take(answer: Answer): Promise<void> {
    const shift = this.blobs.length;
    this.blobs.push(...answer.blobs);
    const { picture } = answer;
    this.scene.pictures.push({ ...picture, pixels: picture.pixels + shift });
    answer.seen.forEach((seen, network) => {
      this.scene.networks[network].seen.push({
        ...seen, bound: seen.bound + shift, facts: seen.facts + shift,
        maps: seen.maps.map((one) => (one.blob === undefined ? one : { ...one, blob: one.blob + shift })),
      });
    });
    await this.show(this.scene.pictures.length - 1);
  }
}

function copied(canvas: HTMLCanvasElement): HTMLCanvasElement {
  const copy = document.createElement("canvas");
  [copy.width, copy.height] = [canvas.width, canvas.height];
  copy.getContext("2d")!.drawImage(canvas, 0, 0);
  return copy;
}

function begin(): void {
  const view = document.getElementById("view") as HTMLCanvasElement;
  let app: App;
  try {
    app = new App(view);
  } catch (problem) {
    const box = document.createElement("div");
    box.id = "sorry";
    box.textContent = `This browser cannot draw in three dimensions (WebGL 2 is needed): ${String(problem)}`;
    document.body.append(box);
    return;
  }
  window.walk = scripting(app, app.show(0));
}

begin();
