// Compiles the contracts and writes built/NAME.boc.hex and built/NAME.hash; with --check it compares instead.
//
//   npm ci && node build.mjs [--check]
//
// The compiler is WebAssembly and deterministic. TOLK_MODULES names another node_modules folder.

import { readFileSync, writeFileSync, mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const modules = process.env.TOLK_MODULES ?? join(here, "node_modules");
const { runTolkCompiler, getTolkCompilerVersion } = createRequire(join(modules, "any.js"))("@ton/tolk-js");
const COMPILER = "1.3.0";

async function compile(name) {
  const result = await runTolkCompiler({
    entrypointFileName: `${name}.tolk`,
    fsReadCallback: (path) => readFileSync(join(here, path), "utf8"),
    optimizationLevel: 2,
  });
  if (result.status !== "ok") {
    throw new Error(`${name}.tolk does not compile: ${result.message}`);
  }
  const boc = Buffer.from(result.codeBoc64, "base64").toString("hex");
  const lines = boc.match(/.{1,120}/g).join("\n");
  return { [`${name}.boc.hex`]: `${lines}\n`, [`${name}.hash`]: `${result.codeHashHex.toLowerCase()}\n` };
}

const version = await getTolkCompilerVersion();
if (version !== COMPILER) {
  throw new Error(`compiler ${version} found, ${COMPILER} expected: run npm ci, or change COMPILER on purpose`);
}
const files = Object.assign({}, ...(await Promise.all(["vault", "pool", "root"].map(compile))));
const stale = [];
mkdirSync(join(here, "built"), { recursive: true });
for (const [name, text] of Object.entries(files)) {
  const path = join(here, "built", name);
  if (!process.argv.includes("--check")) {
    writeFileSync(path, text);
  } else if (readFileSync(path, "utf8") !== text) {
    stale.push(name);
  }
}
if (stale.length > 0) {
  console.error(`built/ differs from what the sources compile to: ${stale.join(", ")}; run node build.mjs and commit`);
  process.exit(1);
}
console.log(`${Object.keys(files).length} files ${process.argv.includes("--check") ? "are" : "written"} as compiled by Tolk ${version}`);
