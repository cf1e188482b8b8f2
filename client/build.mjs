// Bundles src/ and three.js into the one script that lies in the Python package.
// Usage: node build.mjs [OUTPUT]
import { createHash } from "node:crypto";
import { readFileSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const output = process.argv[2] ?? join(here, "../filtersurgeon/walk/client.js");

// The digest lets a check without node tell whether the bundle was made from these sources.
const sources = [
  "build.mjs", "package.json", "package-lock.json", "tsconfig.json",
  ...readdirSync(join(here, "src")).sort().map((name) => `src/${name}`),
];
const digest = createHash("sha256");
for (const name of sources) {
  digest.update(`${name}\0`).update(readFileSync(join(here, name))).update("\0");
}

const three = JSON.parse(readFileSync(join(here, "node_modules/three/package.json"), "utf8"));
const licence = readFileSync(join(here, "node_modules/three/LICENSE"), "utf8").trim();
const banner = `/*
The script of fsurgeon walk, bundled from client/ by "make client"; do not edit.
sources sha256:${digest.digest("hex")}

It contains three.js ${three.version}:

${licence}
*/`;

await build({
  absWorkingDir: here,
  entryPoints: ["src/main.ts"],
  outfile: output,
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2022",
  charset: "ascii",
  legalComments: "none",
  banner: { js: banner },
  logLevel: "warning",
});
