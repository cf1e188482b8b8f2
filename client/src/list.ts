// The list of layers: type to filter, Enter flies there.

import { kindColour } from "./colours";
import type { PanelMesh } from "./panels";
import { element } from "./pixels";
import type { Building } from "./world";

interface Row {
  panel: PanelMesh;
  node: HTMLElement;
  words: string;
}

export class List {
  private readonly rows: Row[] = [];
  private readonly heads: { node: HTMLElement; rows: Row[] }[] = [];
  private near = -1;

  constructor(
    private readonly box: HTMLElement, private readonly search: HTMLInputElement,
    private readonly count: HTMLElement, buildings: Building[],
    private readonly go: (panel: PanelMesh) => void,
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
      const row = { panel, node: this.row(panel), words: words(panel) };
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
    let shown = 0;
    for (const row of this.rows) {
      row.node.hidden = !wanted.every((word) => row.words.includes(word));
      shown += row.node.hidden ? 0 : 1;
    }
    for (const head of this.heads) head.node.hidden = head.rows.every((row) => row.node.hidden);
    this.count.textContent = wanted.length
      ? `${shown} of ${this.rows.length} layers`
      : `${this.rows.length} layers`;
    this.point(wanted.length ? 0 : -1);
  }

  private visible(): Row[] {
    return this.rows.filter((row) => !row.node.hidden);
  }

  private point(place: number): void {
    const rows = this.visible();
    for (const row of this.rows) row.node.classList.remove("near");
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
        this.go(row.panel);
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

function words(panel: PanelMesh): string {
  const { name, kind, text, section, shape } = panel.panel;
  return `${name} ${kind} ${text} ${section} ${shape.join("×")}`.toLowerCase();
}
