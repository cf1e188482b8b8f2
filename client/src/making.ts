// With a server: the picture of a channel is made on demand, and fed back in as the image.

import { element } from "./pixels";
import type { MadeRecord } from "./scene";
import type { Selection } from "./selection";

export interface MakingHost {
  blobs: string[];
  made(network: number): [number, number, MadeRecord[]][];
  /** Draw what is told of the selection anew. */
  changed(): void;
  feed(id: number, name: string): void;
}

const WAYS = { maximised: ["maximize", "Maximise"], decoded: ["decode", "Decode"] } as const;
type How = keyof typeof WAYS;

interface Line {
  done?: number;
  total?: number;
  problem?: string;
  made?: MadeRecord;
  blobs?: string[];
}

export class Maker {
  private running: AbortController | null = null;
  private about = "";
  private problem = "";
  private readonly bar = element("progress", { ariaLabel: "Progress" });

  /**
   * @param address where pictures are made
   * @param able for each network the panels whose channels can be made
   */
  constructor(
    private readonly address: string, private readonly able: number[][],
    private readonly host: MakingHost,
  ) {}

  /** Buttons for the channel that is selected, and what is being made. */
  parts({ panel, channel }: Selection): Node[] {
    if (!this.able[panel.network]?.includes(panel.number)) return [];
    const parts: Node[] = [];
    const name = `${panel.panel.name}, channel ${channel}`;
    const made = this.list(panel.network, panel.number, channel);
    const acts = element("div", { className: "acts making" });
    for (const how of Object.keys(WAYS) as How[]) {
      const found = made.find((one) => one.how === how && one.id !== undefined);
      if (found) {
        const feed = element("button", {
          textContent: `Feed the ${how} image in`, title: "Run the network on this image",
          onclick: () => this.host.feed(found.id!, `${how}: ${name}`),
        });
        acts.append(feed);
      } else {
        const button = element("button", {
          textContent: WAYS[how][1], disabled: this.running !== null,
          title: how === "maximised" ? "Generate the image that excites this channel"
            : "Show its filter in the space of the image",
          onclick: () => void this.make(how, panel.network, panel.number, channel, name),
        });
        acts.append(button);
      }
    }
    parts.push(acts);
    if (this.running) {
      const cancel = element("button", { textContent: "Cancel", onclick: () => this.running?.abort() });
      parts.push(element("p", { className: "running" }, `${this.about} …`),
        element("div", { className: "acts running" }, this.bar, cancel));
    } else if (this.problem) {
      parts.push(element("p", { className: "problem", textContent: this.problem }));
    }
    return parts;
  }

  private list(network: number, panel: number, channel: number): MadeRecord[] {
    return this.host.made(network).find(([p, unit]) => p === panel && unit === channel)?.[2] ?? [];
  }

  private async make(how: How, network: number, panel: number, unit: number, name: string): Promise<void> {
    this.running = new AbortController();
    this.about = `${WAYS[how][1]} ${name}`;
    this.problem = "";
    this.bar.removeAttribute("value");
    this.host.changed();
    try {
      const query = new URLSearchParams({
        how: WAYS[how][0], network: String(network), panel: String(panel), unit: String(unit),
      });
      const response = await fetch(`${this.address}?${query}`, {
        method: "POST", signal: this.running.signal,
      });
      if (!response.ok) throw new Error(await response.text());
      const answer = await this.read(response.body!);
      this.keep(network, panel, unit, answer);
    } catch (problem) {
      const text = problem instanceof Error ? problem.message : String(problem);
      this.problem = this.running.signal.aborted ? "" : text;
    }
    this.running = null;
    this.host.changed();
  }

  /** Read lines as they come: progress, and at the end the picture. */
  private async read(body: ReadableStream<Uint8Array<ArrayBuffer>>): Promise<Line> {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop()!;
      for (const text of lines) {
        const line = JSON.parse(text) as Line;
        if (line.problem !== undefined) throw new Error(line.problem);
        if (line.made) return line;
        if (line.total) {
          this.bar.max = line.total;
          this.bar.value = line.done ?? 0;
        }
      }
    }
    throw new Error("the server ended before the image was made");
  }

  private keep(network: number, panel: number, unit: number, { made, blobs }: Line): void {
    const { blobs: all } = this.host;
    const record = { ...made!, pixels: made!.pixels + all.length };
    all.push(...blobs!);
    const known = this.host.made(network);
    let entry = known.find(([p, u]) => p === panel && u === unit);
    if (!entry) known.push(entry = [panel, unit, []]);
    entry[2] = [...entry[2].filter((one) => one.how !== record.how), record];
  }
}
