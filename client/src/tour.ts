// A tour: steps with text, each of which may go to a layer or channel.

import * as THREE from "three";
import type { App } from "./main";
import type { PanelMesh } from "./panels";
import { element } from "./pixels";

const CLOSE = 3.4; // side of a map, times this, is the distance from which a channel is shown
const NEAREST = 0.5; // metres
const [READING, LEAST] = [0.06, 4]; // seconds for a letter, and for a step

export interface StepRecord {
  title: string;
  text: string;
  network: number;
  panel: number | null;
  channel: number | null;
  view: "start" | "layer" | "channel" | "stay";
  duration: number | null;
}

export interface TourRecord {
  title: string;
  steps: StepRecord[];
}

export class Tour {
  private at = 0;
  private timer = 0;
  private readonly box = element("section", { id: "tour", ariaLabel: "Tour" });
  private readonly title = element("h2");
  private readonly text = element("div", { className: "text" });
  private readonly count = element("span", { className: "count" });
  private readonly bar = element("progress");
  private readonly back = this.button("Back", "The step before (P)", () => this.step(-1));
  private readonly next = this.button("Next", "The next step (N)", () => this.step(1));
  private readonly play = this.button("Play", "Go on by itself", () => this.toggle());
  private readonly opener = this.button("Tour", "Open the tour (N)", () => this.open());

  constructor(private readonly app: App, private readonly record: TourRecord) {
    const close = this.button("×", "Close the tour", () => this.close());
    close.className = "close";
    close.ariaLabel = "Close the tour";
    this.text.setAttribute("aria-live", "polite");
    this.bar.max = record.steps.length;
    this.box.append(close);
    if (record.title) this.box.append(element("p", { className: "name", textContent: record.title }));
    this.box.append(this.title, this.text,
      element("div", { className: "foot" },
        element("div", { className: "acts" }, this.bar, this.count),
        element("div", { className: "acts" }, this.back, this.next, this.play)));
    document.body.append(this.box);
    this.opener.hidden = true;
    document.getElementById("menu")!.append(this.opener);
    window.addEventListener("keydown", (event) => this.key(event));
    document.body.classList.add("touring");
    this.fit();
    this.tell();
  }

  /** The list of layers ends above the tour; on a phone the tour begins below what is on top. */
  private fit(): void {
    const above = ["head", "map"].map((id) => document.getElementById(id)).filter((one) => one !== null);
    const place = new ResizeObserver(() => {
      const ends = above.map((one) => one.offsetTop + one.offsetHeight);
      document.documentElement.style.setProperty("--tour", `${this.box.offsetHeight}px`);
      this.box.style.setProperty("--above", `${Math.max(...ends) + 8}px`);
    });
    for (const one of [this.box, ...above]) place.observe(one);
  }

  private button(text: string, title: string, act: () => void): HTMLButtonElement {
    return element("button", { textContent: text, title, onclick: act });
  }

  private key(event: KeyboardEvent): void {
    const typing = event.target instanceof HTMLInputElement;
    if (typing || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.key === "n" && this.box.hidden) this.open();
    else if (event.key === "n") this.step(1);
    else if (event.key === "p" && !this.box.hidden) this.step(-1);
    else return;
    event.preventDefault();
  }

  /** Go to the step as it is opened, too: its layer is what the text is about. */
  open(): void {
    this.show(true);
    this.tell();
    this.go();
  }

  close(): void {
    this.stop();
    this.show(false);
  }

  private show(open: boolean): void {
    this.box.hidden = !open;
    this.opener.hidden = open;
    document.body.classList.toggle("touring", open);
  }

  private step(by: number): void {
    const wanted = Math.max(0, Math.min(this.record.steps.length - 1, this.at + by));
    if (wanted === this.at) {
      this.stop();
      return;
    }
    this.at = wanted;
    this.tell();
    this.go();
    if (this.timer) this.wait();
  }

  private toggle(): void {
    if (this.timer) {
      this.stop();
      return;
    }
    if (this.at === this.record.steps.length - 1) {
      this.at = 0;
      this.tell();
    }
    this.go();
    this.wait();
  }

  private wait(): void {
    window.clearTimeout(this.timer);
    const { text, duration } = this.record.steps[this.at];
    this.timer = window.setTimeout(() => this.step(1), 1000 * (duration ?? LEAST + READING * text.length));
    this.play.textContent = "Pause";
  }

  private stop(): void {
    window.clearTimeout(this.timer);
    this.timer = 0;
    this.play.textContent = "Play";
  }

  private tell(): void {
    const { steps } = this.record;
    const { title, text } = steps[this.at];
    this.title.textContent = title;
    this.title.hidden = !title;
    this.text.replaceChildren(...text.split(/\n\s*\n/).map(paragraph));
    this.text.scrollTop = 0;
    this.count.textContent = `${this.at + 1}/${steps.length}`;
    this.bar.value = this.at + 1;
    this.back.disabled = this.at === 0;
    this.next.disabled = this.at === steps.length - 1;
  }

  /** Show what the step is about; begins where the walk begins. */
  go(): void {
    const { network, panel, channel, view } = this.record.steps[this.at];
    const { world } = this.app;
    const mesh = panel === null ? null : world.buildings[network].panels[panel];
    if (mesh) {
      if (mesh.hidden) this.app.hide(mesh, false);
      this.app.select(channel === null ? null : { panel: mesh, channel });
    }
    if (view === "start") {
      this.app.select(null);
      world.controls.fly(world.start());
    } else if (mesh && view === "layer") {
      this.app.visit(mesh);
    } else if (mesh && view === "channel" && channel !== null) {
      this.app.visit(mesh, false);
      world.controls.fly(before(mesh, channel));
    }
    world.invalidate();
  }
}

/** Where one stands to see a channel of a layer from close by. */
function before(mesh: PanelMesh, channel: number): { position: THREE.Vector3; target: THREE.Vector3 } {
  const target = mesh.point(channel);
  const side = Math.max(mesh.panel.width / mesh.columns, mesh.panel.height / mesh.rows);
  const position = target.clone().addScaledVector(mesh.axes()[0], Math.max(NEAREST, CLOSE * side));
  return { position, target };
}

/** A paragraph, in which names between backquotes are set as code. */
function paragraph(text: string): HTMLElement {
  const parts = text.trim().split("`");
  return element("p", {}, ...parts.map((part, at) => (
    at % 2 && at < parts.length - 1 ? element("code", { textContent: part }) : part)));
}
