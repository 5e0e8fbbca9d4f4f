// axe-core looks at every state: nothing serious, in light and dark, on a desk and on a phone.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

import { Person, scenario, URL_OF_PARLEY } from "./people.mjs";
import { startProxy } from "./proxy.mjs";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const SERIOUS = ["serious", "critical"];
// What the page's policy forbids everybody, it would forbid axe, too; and nothing is half seen while it looks.
const DESK = { colorScheme: "light", bypassCSP: true, reducedMotion: "reduce" };
const PHONE = { colorScheme: "dark", viewport: { width: 390, height: 780 }, hasTouch: true, isMobile: true, bypassCSP: true, reducedMotion: "reduce" };

await scenario(async (browser) => {
  const bob = await Person.arrive(browser);
  await signIn(browser, DESK);
  const ann = await arriveByProxy(browser, DESK);
  await look(ann, "no conversation");
  await ann.page.getByRole("button", { name: "New conversation" }).click();
  await ann.page.getByLabel("With").pressSequentially("someone else ");
  await look(ann, "new conversation");
  await ann.page.keyboard.press("Escape");
  await talk(ann, bob);
  await look(ann, "conversation");
  await ann.page.getByRole("button", { name: "This conversation" }).click();
  await look(ann, "menu");
  await ann.page.keyboard.press("Escape");
  await goOffline(ann);
  await look(ann, "offline");

  await signIn(browser, PHONE);
  const cat = await arriveByProxy(browser, PHONE);
  await talk(cat, bob);
  await look(cat, "conversation on a phone");
  await cat.page.getByRole("link", { name: "Back to the conversations" }).click();
  await bob.say("Unread");
  await cat.page.locator(".badge").waitFor();
  await look(cat, "list on a phone");
  await cat.open(bob.name);
  await goOffline(cat);
  await look(cat, "offline on a phone");
  for (const person of [ann, cat]) person.proxy.close();
});

async function arriveByProxy(browser, options) {
  const proxy = await startProxy(URL_OF_PARLEY);
  proxy.allowsWebSocket = true;
  return Object.assign(await Person.arrive(browser, { ...options, url: proxy.url }), { proxy });
}

async function talk(ann, bob) {
  await ann.begin(bob.name);
  await ann.say("Hello");
  await bob.open(ann.name);
  await bob.say("Hello yourself");
  await ann.seesStatus("Hello", "seen");
  await ann.message("Hello yourself").waitFor();
}

async function goOffline(person) {
  person.proxy.cut();
  await person.say("Not sent");
  await person.seesBanner("Offline");
}

async function signIn(browser, options) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  await page.goto(URL_OF_PARLEY);
  await page.getByLabel("Your name").waitFor();
  await look({ page }, "signing in");
  await context.close();
}

async function look({ page }, state) {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => globalThis.axe.run({ resultTypes: ["violations"] }));
  const serious = violations.filter(({ impact }) => SERIOUS.includes(impact));
  const told = serious.map(({ id, help, nodes }) => [`${id}: ${help}`, ...nodes.map(({ html }) => html)].join("\n  "));
  assert.deepEqual(told, [], `${state}:\n${told.join("\n")}`);
}
