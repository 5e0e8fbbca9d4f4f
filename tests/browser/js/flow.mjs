// Two people talk: ticks, unread counts, notices, typing, presence. A third makes a group of them.

import assert from "node:assert/strict";

import { eventually, Person, scenario } from "./people.mjs";

const MARKUP = `<img src=x onerror="document.title='gone'"> <b>bold</b> &amp; **stars**`;

await scenario(async (browser) => {
  const [ann, bob] = await Promise.all([Person.arrive(browser), Person.arrive(browser)]);

  // From the list: delivered, counted, announced; not seen.
  await ann.begin(bob.name);
  await ann.say("Hello there");
  await ann.sees("Hello there");
  await bob.listed(ann.name).locator(".badge", { hasText: "1" }).waitFor();
  await bob.page.locator(".toast", { hasText: "Hello there" }).waitFor();
  await ann.seesStatus("Hello there", "delivered");
  await eventually(async () => assert.equal(await bob.page.title(), "(1) Parley"));

  // Opened: seen, and nothing is unread any more.
  await bob.page.locator(".toast a").click();
  await bob.sees("Hello there");
  await ann.seesStatus("Hello there", "seen");
  await bob.listed(ann.name).locator(".badge").waitFor({ state: "detached" });
  await bob.page.locator(".toast").waitFor({ state: "detached" });

  // Typing shows while it lasts, and the answer ends it.
  await bob.composer.pressSequentially("Hi");
  await ann.page.getByText(`${bob.name} is typing`).waitFor();
  await bob.composer.press("Enter");
  await ann.sees("Hi");
  await ann.page.getByText(`${bob.name} is typing`).waitFor({ state: "detached" });
  await bob.seesStatus("Hi", "seen");

  // Text is text, to the letter.
  await bob.say(MARKUP);
  await ann.sees("**stars**");
  assert.equal((await ann.texts()).at(-1), MARKUP);
  assert.equal(await ann.page.locator(".content img, .content b").count(), 0);

  // Presence: there, busy, gone.
  const dot = (status) => ann.listed(bob.name).locator(`.dot.${status}`);
  await dot("online").waitFor({ state: "attached" });
  await bob.page.getByRole("button", { name: "You", exact: true }).click();
  await bob.page.getByRole("menuitemcheckbox", { name: "Busy" }).click();
  await dot("busy").waitFor({ state: "attached" });

  // A group, in which one is told who speaks; and muted, it is quiet.
  const cat = await Person.arrive(browser);
  await cat.begin(ann.name, bob.name);
  await cat.say("Now we are three");
  await ann.open(`${bob.name}, ${cat.name}`);
  await ann.page.locator(".sender", { hasText: cat.name }).waitFor();
  await ann.page.getByRole("button", { name: "This conversation" }).click();
  await ann.page.getByRole("menuitemcheckbox", { name: "Mute" }).click();
  await ann.page.getByRole("button", { name: "This conversation" }).click();
  await ann.page.getByRole("menuitemcheckbox", { name: "Mute", checked: true }).waitFor();
  await ann.page.keyboard.press("Escape");

  await bob.context.close();
  await eventually(async () => assert.match(await dot("offline").getAttribute("class"), /offline/));

  // Without a mouse: up and down the list, open, write, send.
  await ann.listed(bob.name).focus();
  await ann.page.keyboard.press("ArrowUp");
  await ann.page.keyboard.press("ArrowDown");
  await ann.page.keyboard.press("Enter");
  await ann.sees("Hello there");
  await eventually(() => ann.page.evaluate(() => {
    if (document.activeElement?.tagName !== "TEXTAREA") throw new Error("the composer has no focus");
  }));
  await ann.page.keyboard.type("by keys");
  await ann.page.keyboard.press("Enter");
  await ann.sees("by keys");

  for (const person of [ann, cat]) person.assertNoProblems();
});
