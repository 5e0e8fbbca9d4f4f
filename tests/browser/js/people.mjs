// People in browsers, and what they do there: as people do it, by what they read on the page.

import assert from "node:assert/strict";
import { createInterface } from "node:readline";

import { chromium } from "playwright-core";

export const URL_OF_PARLEY = process.env.PARLEY_URL;
// For what takes milliseconds on a quiet machine.
export const PATIENCE_MS = 15_000;

const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

// Runs a scenario with a browser of its own, and ends with 1 where something did not hold.
export async function scenario(play) {
  const browser = await chromium.launch({ executablePath: process.env.PARLEY_CHROMIUM, args: FLAGS });
  try {
    await play(browser);
  } finally {
    await browser.close();
    lines.close();
  }
}

const lines = createInterface({ input: process.stdin });
const answers = lines[Symbol.asyncIterator]();

// Has the other side do something with the server: kill, start or restart.
export async function ask(what) {
  console.log(`ask ${what}`);
  await answers.next();
}

let people = 0;

export class Person {
  // Everything that went wrong on the page.
  problems = [];

  constructor(name, context, page) {
    this.name = name;
    this.context = context;
    this.page = page;
    page.setDefaultTimeout(PATIENCE_MS);
    page.on("pageerror", (error) => this.problems.push(error.message));
    page.on("console", (message) => {
      // What cannot be loaded, the browser says itself, and some scenarios see to that.
      const isOurs = message.type() === "error" && !/Failed to load resource|WebSocket connection to/.test(message.text());
      if (isOurs) this.problems.push(message.text());
    });
  }

  // Signed in, in a context of one's own; `url` where it is not the server's.
  static async arrive(browser, { name = `person${(people += 1)}-${Date.now()}`, url = URL_OF_PARLEY, ...options } = {}) {
    const context = await browser.newContext({ viewport: { width: 1180, height: 740 }, locale: "en-GB", ...options });
    const person = new Person(name, context, await context.newPage());
    await person.page.goto(url);
    await person.page.getByLabel("Your name").fill(name);
    await person.page.getByRole("button", { name: "Sign in" }).click();
    await person.isOnline();
    return person;
  }

  // ---- What one does.

  async begin(...names) {
    await this.page.getByRole("button", { name: "New conversation" }).click();
    await this.page.getByLabel("With").fill(names.join(" "));
    await this.page.keyboard.press("Enter");
    await this.composer.waitFor();
  }

  async open(title) {
    await this.listed(title).click();
    await this.composer.waitFor();
  }

  async say(text) {
    await this.composer.fill(text);
    await this.composer.press("Enter");
  }

  // ---- What one sees.

  get composer() {
    return this.page.getByRole("textbox", { name: "Message" });
  }

  listed(title) {
    const exactly = this.page.locator("strong").getByText(title, { exact: true });
    return this.page.getByRole("navigation", { name: "Conversations" }).getByRole("link").filter({ has: exactly });
  }

  message(text) {
    return this.page.locator(".message").filter({ has: this.page.locator(".content", { hasText: text }) });
  }

  // Everything that stands in the conversation, from top to bottom.
  texts() {
    return this.page.locator(".message .content").allTextContents();
  }

  async sees(text) {
    await this.message(text).first().waitFor();
  }

  // sent, delivered, seen; queued or sending where it is still on its way.
  async seesStatus(text, ...statuses) {
    const wanted = statuses.map((status) => `.ticks[data-status="${status}"]`).join(", ");
    await this.message(text).locator(wanted).first().waitFor();
  }

  async seesBanner(text) {
    await this.page.locator(".banner", { hasText: text }).waitFor();
  }

  async seesNoBanner() {
    await this.page.locator(".banner:not([data-shown])").waitFor({ state: "attached" });
  }

  async isOnline() {
    await this.page.locator(".sidebar .bar .dot.online").waitFor({ state: "attached" });
  }

  assertNoProblems() {
    assert.deepEqual(this.problems, [], `on the page of ${this.name}`);
  }
}

// Asks until it holds; the last failure is what one sees.
export async function eventually(check) {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (Date.now() > deadline) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

// ---- The API, for what nobody wants to type.

export async function api(name) {
  const { token } = await call("POST", "/dev/token", null, { userId: name });
  return Object.assign((method, path, body) => call(method, path, token, body), { token });
}

async function call(method, path, token, body) {
  const response = await fetch(`${URL_OF_PARLEY}/api/v1${path}`, {
    method,
    headers: { "content-type": "application/json", ...(token && { authorization: `Bearer ${token}` }) },
    ...(body && { body: JSON.stringify(body) }),
  });
  assert.ok(response.ok, `${method} ${path}: ${response.status}`);
  return response.status === 204 ? null : response.json();
}
