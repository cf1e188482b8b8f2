// The list of layers: type to filter, Enter flies there.

import { kindColour } from "./colours";
import { className } from "./classes";
import type { PanelMesh } from "./panels";
import { element } from "./pixels";
import type { Building } from "./world";

interface Row {
  panel: PanelMesh;
  node: HTMLElement;
  words: string;
  /** What is in it besides the name: kind and section, then shapes. */
  name: string;
  shape: string;
}

const MOST_CLASSES = 20;

export class List {
  private readonly rows: Row[] = [];
  private readonly heads: { node: HTMLElement; rows: Row[] }[] = [];
  private near = -1;
  private classes: { node: HTMLElement; panel: PanelMesh; channel: number }[] = [];

  constructor(
    private readonly box: HTMLElement, private readonly search: HTMLInputElement,
    private readonly count: HTMLElement, private readonly buildings: Building[],
    private readonly go: (panel: PanelMesh, channel?: number) => void,
    private readonly hide: (panel: PanelMesh, hidden: boolean) => void,
  ) {
    for (const building of buildings) this.add(building, buildings.length > 1);
    search.addEventListener("input", () => this.filter());
    search.addEventListener("keydown", (event) => this.key(event));
    this.filter();
  }

  private add(building: Building, several: boolean): void {
    let section: string | null = null;
    let head: { node: HTMLElement; rows: Row[] } | null = null;
    for (const panel of building.panels) {
      if (!head || panel.panel.section !== section) {
        section = panel.panel.section;
        const name = section || "image";
        const text = several ? `${building.record.name} · ${name}` : name;
        head = { node: element("h2", { textContent: text }), rows: [] };
        this.heads.push(head);
        this.box.append(head.node);
      }
      const row = { panel, node: this.row(panel), ...words(panel) };
      head.rows.push(row);
      this.rows.push(row);
      this.box.append(row.node);
    }
  }

  private row(panel: PanelMesh): HTMLElement {
    const { name, kind, shape, text } = panel.panel;
    const dot = element("i");
    dot.style.background = kindColour(kind);
    const eye = element("button", { className: "eye", textContent: "hide", ariaLabel: `Hide ${name}` });
    eye.onclick = (event) => {
      event.stopPropagation();
      this.hide(panel, !panel.hidden);
    };
    const node = element("div", { className: "row", title: `${name}: ${text}, ${shape.join("×")}` },
      dot, element("b", {}, element("bdi", { textContent: name })), eye,
      element("small", { textContent: shape[1] * shape[2] === 1 ? String(shape[0]) : `${shape[0]}×${shape[1]}` }));
    node.setAttribute("role", "option");
    node.tabIndex = -1;
    node.onclick = () => this.go(panel);
    return node;
  }

  focus(): void {
    this.search.focus();
    this.search.select();
  }

  private filter(): void {
    const wanted = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const places = this.rows.map((row) => place(row, wanted));
    this.rows.forEach((row, at) => { row.node.hidden = places[at] === NOWHERE; });
    const shown = places.filter((one) => one !== NOWHERE).length;
    const mixed = new Set(places.filter((one) => one !== NOWHERE)).size > 1;
    // Names come before kinds, and those before shapes; then sections no longer stand together.
    if (mixed) {
      const order = this.rows.map((_, at) => at).sort((a, b) => places[a] - places[b] || a - b);
      this.box.append(...order.map((at) => this.rows[at].node));
    } else {
      for (const head of this.heads) this.box.append(head.node, ...head.rows.map((row) => row.node));
    }
    for (const head of this.heads) head.node.hidden = mixed || head.rows.every((row) => row.node.hidden);
    this.findClasses(wanted);
    this.count.textContent = wanted.length
      ? `${shown} of ${this.rows.length} layers`
      : `${this.rows.length} layers`;
    this.point(wanted.length ? 0 : -1);
  }

  /** Classes whose names are searched for, below the layers. */
  private findClasses(wanted: string[]): void {
    this.box.querySelectorAll(".label").forEach((node) => node.remove());
    this.classes = [];
    if (wanted.join("").length < 2) return;
    const head = element("h2", { textContent: "classes", className: "label" });
    for (const building of this.buildings) {
      const { scores, labels } = building.record;
      if (scores === null) continue;
      const found = labels.map((label, channel) => ({ label: label.toLowerCase(), channel }))
        .filter(({ label }) => wanted.every((word) => label.includes(word)));
      // What begins with the first word comes first; the order is stable otherwise.
      const first = ({ label }: { label: string }): number => Number(!label.startsWith(wanted[0]));
      found.sort((a, b) => first(a) - first(b));
      for (const { channel } of found.slice(0, MOST_CLASSES)) {
        const panel = building.panels[scores];
        const name = className(building, scores, channel)!;
        const node = element("div", { className: "row label", title: `${name}: channel ${channel} of ${panel.panel.name}` },
          element("i"), element("b", { textContent: name }), element("small", { textContent: String(channel) }));
        (node.firstChild as HTMLElement).style.background = kindColour(panel.panel.kind);
        node.setAttribute("role", "option");
        node.onclick = () => this.go(panel, channel);
        this.classes.push({ node, panel, channel });
      }
    }
    if (this.classes.length) this.box.append(head, ...this.classes.map(({ node }) => node));
  }

  private visible(): { node: HTMLElement; panel: PanelMesh; channel?: number }[] {
    const shown = new Map<Element, { node: HTMLElement; panel: PanelMesh; channel?: number }>(
      [...this.rows.filter((row) => !row.node.hidden), ...this.classes].map((row) => [row.node, row]));
    return Array.from(this.box.children).flatMap((node) => shown.get(node) ?? []);
  }

  private point(place: number): void {
    const rows = this.visible();
    this.box.querySelectorAll(".near").forEach((node) => node.classList.remove("near"));
    this.near = Math.max(-1, Math.min(rows.length - 1, place));
    const row = rows[this.near];
    row?.node.classList.add("near");
    row?.node.scrollIntoView({ block: "nearest" });
  }

  private key(event: KeyboardEvent): void {
    if (event.key === "Escape") {
      this.search.value = "";
      this.search.blur();
      this.filter();
    } else if (event.key === "Enter") {
      const row = this.visible()[Math.max(0, this.near)];
      if (row) {
        this.go(row.panel, row.channel);
        this.search.blur();
      }
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      this.point(this.near + (event.key === "ArrowDown" ? 1 : -1));
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }

  mark(panel: PanelMesh | null): void {
    for (const row of this.rows) {
      const on = row.panel === panel;
      row.node.classList.toggle("on", on);
      row.node.setAttribute("aria-selected", String(on));
      if (on) row.node.scrollIntoView({ block: "nearest" });
    }
  }

  refresh(): void {
    for (const { panel, node } of this.rows) {
      const { hidden } = panel;
      node.classList.toggle("gone", hidden);
      node.querySelector(".eye")!.textContent = hidden ? "show" : "hide";
    }
  }
}

function words(panel: PanelMesh): { name: string; words: string; shape: string } {
  const { name, kind, text, section, shape } = panel.panel;
  return {
    name: name.toLowerCase(), words: `${name} ${kind} ${text} ${section}`.toLowerCase(),
    shape: shape.join("×"),
  };
}

const NOWHERE = 9;

/** How well a layer fits what is searched for: 0 is its very name. */
function place(row: Row, wanted: string[]): number {
  const every = (text: string): boolean => wanted.every((word) => text.includes(word));
  if (!wanted.length) return 0;
  if (wanted.length === 1 && row.name === wanted[0]) return 0;
  if (row.name.startsWith(wanted[0]) && every(row.name)) return 1;
  if (every(row.name)) return 2;
  if (every(row.words)) return 3;
  return every(`${row.words} ${row.shape}`) ? 4 : NOWHERE;
}
