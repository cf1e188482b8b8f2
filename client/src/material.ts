// The one shader of all panels: from a point on a panel to a map, a pixel and a colour.

import * as THREE from "three";
import { NOT_FINITE, scaleColours, type ScaleName } from "./colours";

const VERTEX = /* glsl */ `
  out vec2 place;
  out float away;
  void main() {
    place = uv;
    vec4 seen = modelViewMatrix * vec4(position, 1.0);
    away = -seen.z;
    gl_Position = projectionMatrix * seen;
  }
`;

const FRAGMENT = /* glsl */ `
  precision highp float;
  precision highp sampler2D;
  uniform sampler2D atlas;    // bytes of all maps
  uniform sampler2D slots;    // per slot: tile (-1 removed, -2 nothing), strength of its channel
  uniform sampler2D colours;
  uniform vec2 grid;          // slots across and down
  uniform vec2 tiles;         // tiles of the atlas across and down
  uniform vec2 tile;          // texels of a tile
  uniform vec2 fill;          // part of the tile that holds the map
  uniform vec2 border;        // of the panel, as part of its sides
  uniform vec3 frame;
  uniform vec3 fog;
  uniform float gain;
  uniform float evenly;       // 0: a scale per channel; 1: one for the layer; 2: as the layer's own
  uniform float single;       // 1: maps of one pixel, which only a scale of the layer tells apart
  uniform float coloured;     // 1: the image, whose channels are painted as red, green and blue
  uniform sampler2D photo;
  uniform float levels;
  uniform float ready;
  uniform vec2 marked;        // slots that are picked, and pointed at
  in vec2 place;
  in float away;
  out vec4 colour;

  void main() {
    vec2 on = (place - border) / (1.0 - 2.0 * border);
    vec3 shown = vec3(0.030, 0.041, 0.063);
    bool inside = on.x >= 0.0 && on.y >= 0.0 && on.x < 1.0 && on.y < 1.0;
    vec2 cell = vec2(on.x, 1.0 - on.y) * grid;
    vec2 step_ = fwidth(cell);
    if (!inside) {
      vec2 edge = min(place, 1.0 - place) / border;
      shown = min(edge.x, edge.y) < 0.45 ? frame : shown;
    } else if (ready > 0.5) {
      ivec2 number = ivec2(cell);
      vec4 slot = texelFetch(slots, number, 0);
      vec2 within = fract(cell);
      float gap = 0.035;
      vec2 inner = (within - gap) / (1.0 - 2.0 * gap);
      bool map = inner.x > 0.0 && inner.y > 0.0 && inner.x < 1.0 && inner.y < 1.0;
      float far = max(step_.x, step_.y);
      if (slot.x > -0.5) {
        inner = clamp(inner, 0.0, 0.9999);
        vec2 texels = tile * fill;
        float lod = clamp(log2(max(step_.x * texels.x, step_.y * texels.y)), 0.0, levels - 1.0);
        float nearest = floor(lod + 0.5);
        vec2 half_ = min(vec2(0.5), 0.5 * exp2(nearest) / tile);
        vec2 uv_ = inner * fill;
        if (nearest > 0.5) uv_ = clamp(uv_, half_, max(half_, fill - half_));
        vec2 corner = vec2(mod(slot.x, tiles.x), floor(slot.x / tiles.x));
        float held = textureLod(atlas, (corner + uv_) / tiles, nearest).r;
        float value = (held * 255.0 - 128.0) / 127.0;
        value *= mix(1.0, slot.y, evenly > 1.5 ? single : evenly) * gain;
        vec3 painted = texture(colours, vec2((clamp(value, -1.0, 1.0) * 127.0 + 128.5) / 256.0, 0.5)).rgb;
        if (coloured > 0.5) {
          vec3 light = texture(photo, vec2(inner.x, 1.0 - inner.y)).rgb;
          int part = int(slot.x + 0.5);
          // Pure blue would hardly be seen.
          vec3 tint = part == 0 ? vec3(1.0, 0.42, 0.36) : part == 1 ? vec3(0.42, 1.0, 0.46) : vec3(0.45, 0.62, 1.0);
          painted = tint * light[part];
        }
        if (held < 0.001) painted = vec3(${NOT_FINITE.map((part) => (part / 255).toFixed(3)).join(", ")});
        shown = map || far > 0.2 ? painted : shown;
      } else if (slot.x > -1.5) {
        // A channel that was removed: hatched, so that it is not taken for one that is silent.
        float line = abs(fract((within.x + within.y) * 3.0) - 0.5);
        shown = map ? mix(vec3(0.075, 0.055, 0.062), vec3(0.36, 0.12, 0.17), far > 0.25 ? 0.35 : smoothstep(0.16, 0.10, line)) : shown;
      }
      float id = float(number.y) * grid.x + float(number.x);
      if (id == marked.x || id == marked.y) {
        vec2 rim = min(within, 1.0 - within);
        vec2 line = max(vec2(0.035), step_ * 2.2);
        if (rim.x < line.x || rim.y < line.y) {
          shown = id == marked.x ? vec3(1.0, 0.71, 0.28) : vec3(0.45, 0.72, 1.0);
        }
      }
    }
    colour = vec4(mix(shown, fog, smoothstep(70.0, 210.0, away)), 1.0);
  }
`;

export const FOG = new THREE.Color(0.035, 0.047, 0.075);

function lookUp(name: ScaleName): THREE.DataTexture {
  const texture = new THREE.DataTexture(scaleColours(name), 256, 1);
  texture.magFilter = texture.minFilter = THREE.LinearFilter;
  texture.needsUpdate = true;
  return texture;
}

/** What all panels have in common; one object, so that a change shows everywhere. */
export const shared = {
  colours: { value: null as THREE.DataTexture | null },
  gain: { value: 1 },
  evenly: { value: 2 },
  fog: { value: FOG },
};

const tables = new Map<ScaleName, THREE.DataTexture>();

export function useScale(name: ScaleName): void {
  if (!tables.has(name)) tables.set(name, lookUp(name));
  shared.colours.value = tables.get(name)!;
}

export function panelMaterial(frame: string): THREE.ShaderMaterial {
  return new THREE.ShaderMaterial({
    glslVersion: THREE.GLSL3,
    vertexShader: VERTEX,
    fragmentShader: FRAGMENT,
    side: THREE.DoubleSide,
    uniforms: {
      ...shared,
      atlas: { value: null },
      slots: { value: null },
      grid: { value: new THREE.Vector2(1, 1) },
      tiles: { value: new THREE.Vector2(1, 1) },
      tile: { value: new THREE.Vector2(1, 1) },
      fill: { value: new THREE.Vector2(1, 1) },
      border: { value: new THREE.Vector2(0.02, 0.02) },
      frame: { value: new THREE.Color(frame).convertLinearToSRGB() },
      single: { value: 0 },
      coloured: { value: 0 },
      photo: { value: null },
      levels: { value: 1 },
      ready: { value: 0 },
      marked: { value: new THREE.Vector2(-1, -1) },
    },
  });
}
