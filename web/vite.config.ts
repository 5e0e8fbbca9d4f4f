import { defineConfig } from "vite";

// The edge serves what is built from `/`; `npm run dev` hands its paths on to an edge that runs beside it.
const EDGE = "http://127.0.0.1:8080";

export default defineConfig({
  build: {
    target: "es2023",
    // No part of the page comes as text inside another: the Content-Security-Policy has no exceptions.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rolldownOptions: {
      input: { index: "index.html", "service-worker": "src/service-worker.ts" },
      output: {
        // A service worker has the scope of its path, and browsers look for a newer one under the same name.
        entryFileNames: ({ name }) => (name === "service-worker" ? "[name].js" : "assets/[name]-[hash].js"),
      },
    },
  },
  // sockjs-client was written for bundlers that had it.
  define: { global: "globalThis" },
  server: {
    proxy: { "/api": EDGE, "/sockjs": { target: EDGE, ws: true }, "/ws": { target: EDGE, ws: true } },
  },
});
