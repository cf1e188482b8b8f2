// All maps of a layer in one texture: tiles whose sides are powers of two, so that each level of
// detail holds every map by itself and none bleeds into its neighbour.

import * as THREE from "three";
import type { Maps } from "./maps";

export interface Atlas {
  texture: THREE.DataTexture;
  /** Tiles side by side, and one above the other. */
  columns: number;
  rows: number;
  /** The part of a tile that its map fills. */
  fill: [number, number];
  /** Width of a tile in texels. */
  tile: [number, number];
  levels: number;
}

interface Level {
  data: Uint8Array<ArrayBuffer>;
  width: number;
  height: number;
}

function powerOfTwo(size: number): number {
  return 2 ** Math.ceil(Math.log2(Math.max(1, size)));
}

export function makeAtlas(maps: Maps, most: number): Atlas {
  const { channels, height, width } = maps;
  const [tileWidth, tileHeight] = [powerOfTwo(width), powerOfTwo(height)];
  const columns = Math.max(1, Math.min(channels, Math.round(Math.sqrt(channels * tileHeight / tileWidth))));
  const rows = Math.ceil(channels / columns);
  let level = baseLevel(maps, columns, rows, tileWidth, tileHeight);
  const levels: Level[] = [level];
  let [across, down] = [tileWidth, tileHeight];
  while (across > 1 || down > 1) {
    const [stepX, stepY] = [across > 1 ? 2 : 1, down > 1 ? 2 : 1];
    level = halved(level, stepX, stepY);
    levels.push(level);
    across /= stepX;
    down /= stepY;
  }
  // A texture that the graphics processor cannot hold is shown without its finest levels.
  const drop = levels.findIndex((one) => Math.max(one.width, one.height) <= most);
  const used = levels.slice(Math.max(0, drop));
  return {
    texture: textureOf(used), columns, rows,
    fill: [width / tileWidth, height / tileHeight],
    tile: [Math.max(1, tileWidth >> drop), Math.max(1, tileHeight >> drop)],
    levels: used.length,
  };
}

function baseLevel(
  maps: Maps, columns: number, rows: number, tileWidth: number, tileHeight: number,
): Level {
  const { channels, height, width, values } = maps;
  const across = columns * tileWidth;
  const data = new Uint8Array(across * rows * tileHeight).fill(128);
  for (let channel = 0; channel < channels; channel++) {
    const left = (channel % columns) * tileWidth;
    const top = Math.floor(channel / columns) * tileHeight;
    for (let row = 0; row < tileHeight; row++) {
      const from = (channel * height + Math.min(row, height - 1)) * width;
      const to = (top + row) * across + left;
      data.set(values.subarray(from, from + width), to);
      // What lies beside a map in its tile continues it, so that means of pixels stay true.
      if (width < tileWidth) data.fill(values[from + width - 1], to + width, to + tileWidth);
    }
  }
  return { data, width: across, height: rows * tileHeight };
}

function halved(level: Level, stepX: number, stepY: number): Level {
  const [width, height] = [level.width / stepX, level.height / stepY];
  const data = new Uint8Array(width * height);
  const { data: from, width: across } = level;
  const [right, below] = [stepX - 1, (stepY - 1) * across];
  for (let row = 0, to = 0; row < height; row++) {
    let at = row * stepY * across;
    for (let column = 0; column < width; column++, at += stepX) {
      data[to++] = (from[at] + from[at + right] + from[at + below] + from[at + below + right] + 2) >> 2;
    }
  }
  return { data, width, height };
}

function textureOf(levels: Level[]): THREE.DataTexture {
  const base = levels[0];
  const texture = new THREE.DataTexture(
    base.data, base.width, base.height, THREE.RedFormat, THREE.UnsignedByteType,
  );
  texture.mipmaps = levels.map(({ data, width, height }) => ({ data, width, height }));
  texture.generateMipmaps = false;
  texture.minFilter = THREE.LinearMipmapNearestFilter;
  texture.magFilter = THREE.NearestFilter;
  texture.unpackAlignment = 1;
  texture.needsUpdate = true;
  // What is on the graphics processor need not stay in memory a second time.
  texture.onUpdate = () => {
    texture.mipmaps = [];
    (texture.image as { data: Uint8Array | null }).data = null;
  };
  return texture;
}
