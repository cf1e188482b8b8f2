// Packed bytes: 85 signs, deflated, differences of neighbours.

const TABLE = new Uint8Array(128);
{
  let digit = 0;
  for (let sign = 33; sign < 127 && digit < 85; sign++) {
    if (!"\"'&<>\\`-/".includes(String.fromCharCode(sign))) TABLE[sign] = digit++;
  }
}

function fromText(text: string): Uint8Array<ArrayBuffer> {
  const groups = (text.length - 1) / 5;
  const content = new Uint8Array(groups * 4);
  for (let group = 0, at = 1, to = 0; group < groups; group++, at += 5) {
    const word =
      ((TABLE[text.charCodeAt(at)] * 85 + TABLE[text.charCodeAt(at + 1)]) * 85 +
        TABLE[text.charCodeAt(at + 2)]) * 7225 +
      TABLE[text.charCodeAt(at + 3)] * 85 + TABLE[text.charCodeAt(at + 4)];
    content[to++] = word >>> 24;
    content[to++] = word >>> 16;
    content[to++] = word >>> 8;
    content[to++] = word;
  }
  return content.subarray(0, content.length - Number(text[0]));
}

async function inflated(content: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>> {
  const stream = new Blob([content]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Read packed bytes whose last axis has the given length. */
export async function unpack(text: string, last: number): Promise<Uint8Array<ArrayBuffer>> {
  const held = await inflated(fromText(text));
  const values = held.subarray(1);
  if (held[0] === 1) {
    for (let row = 0; row < values.length; row += last) {
      for (let at = row + 1; at < row + last; at++) values[at] += values[at - 1];
    }
  }
  return values;
}

/** Read numbers of several bytes, which were packed one significance after the other. */
async function unpackWide(text: string, count: number, size: number): Promise<ArrayBuffer> {
  const planes = await unpack(text, count);
  const content = new Uint8Array(count * size);
  for (let plane = 0; plane < size; plane++) {
    for (let at = 0; at < count; at++) content[at * size + plane] = planes[plane * count + at];
  }
  return content.buffer;
}

export async function unpackFloats(text: string, count: number): Promise<Float32Array> {
  return new Float32Array(await unpackWide(text, count, 4));
}

export async function unpackShorts(text: string, count: number): Promise<Uint16Array> {
  return new Uint16Array(await unpackWide(text, count, 2));
}
