// With a server: an image of the user's goes through the network.

import { element } from "./pixels";
import type { Answer } from "./scene";

interface Wanted {
  name: string;
  query: Record<string, string>;
  body: File | null;
}

export class Live {
  private busy = false;
  private next: Wanted | null = null;
  private said = "";
  readonly input = element("input", { type: "file", accept: "image/*", hidden: true });

  constructor(
    private readonly address: string, private readonly largest: number,
    private readonly take: (answer: Answer) => Promise<void>,
    private readonly tell: (text: string) => void,
  ) {
    document.body.append(this.input);
    this.input.onchange = () => {
      const file = this.input.files?.[0];
      if (file) void this.send(file);
      this.input.value = "";
    };
    const drop = document.getElementById("drop")!;
    window.addEventListener("dragover", (event) => {
      event.preventDefault();
      drop.hidden = false;
    });
    drop.addEventListener("dragleave", () => { drop.hidden = true; });
    window.addEventListener("drop", (event) => {
      event.preventDefault();
      drop.hidden = true;
      const file = event.dataTransfer?.files[0];
      if (file) void this.send(file);
    });
  }

  choose(): void {
    this.input.click();
  }

  // The newest file waits while another goes through the network; a file that is too large does not.
  async send(file: File): Promise<void> {
    if (file.size > this.largest) {
      this.say(`${file.name} is larger than ${Math.round(this.largest / 1e6)} MB`);
      return;
    }
    await this.queue({ name: file.name, query: { name: file.name }, body: file });
  }

  /** Run the network on an image that the server made, and keeps. */
  async feed(id: number, name: string): Promise<void> {
    await this.queue({ name, query: { made: String(id), name }, body: null });
  }

  private async queue(wanted: Wanted): Promise<void> {
    this.next = wanted;
    if (this.busy) return;
    this.busy = true;
    while (this.next) {
      const chosen: Wanted = this.next;
      this.next = null;
      await this.pass(chosen);
    }
    this.busy = false;
  }

  private async pass({ name, query, body }: Wanted): Promise<void> {
    const progress = `${name} goes through the network …`;
    this.say(progress);
    try {
      const response = await fetch(`${this.address}?${new URLSearchParams(query)}`, {
        method: "POST", body, headers: { "Content-Type": "application/octet-stream" },
      });
      if (!response.ok) throw new Error(await response.text());
      await this.take(await response.json() as Answer);
      // What was said of another file in the meantime stays to be read.
      if (this.said === progress) this.say("");
    } catch (problem) {
      this.say(problem instanceof Error ? problem.message : String(problem));
    }
  }

  private say(text: string): void {
    this.said = text;
    this.tell(text);
  }
}
