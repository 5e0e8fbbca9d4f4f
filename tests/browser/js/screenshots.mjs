// The main states as images, into the directory that PARLEY_IMAGES names.

import assert from "node:assert/strict";
import { mkdirSync, statSync } from "node:fs";

import { Person, scenario, URL_OF_PARLEY } from "./people.mjs";
import { startProxy } from "./proxy.mjs";

const IMAGES = process.env.PARLEY_IMAGES;
// They are kept in the repository.
const LARGEST_BYTES = 150 * 1024;
const DESK = { viewport: { width: 1120, height: 700 } };
const PHONE = { viewport: { width: 390, height: 760 }, deviceScaleFactor: 1.5, isMobile: true, hasTouch: true };
const TALK = [
  ["marta", "Morning! Is the boat still yours on Saturday?"],
  ["jonas", "It is. High water is at 10:40, so we should be out by nine."],
  ["jonas", "The forecast says south-west 3 to 4, some sun after noon."],
  ["marta", "Perfect. I bring bread, cheese and the big thermos ☕"],
  ["marta", "Shall I ask Ines whether she wants to come along?"],
  ["jonas", "Please do! There is room for three, and she knows the sandbanks better than both of us."],
];

mkdirSync(IMAGES, { recursive: true });
await scenario(async (browser) => {
  const proxy = await startProxy(URL_OF_PARLEY);
  const [marta, jonas, ines] = await Promise.all([
    Person.arrive(browser, { name: "marta", url: proxy.url, ...DESK }),
    Person.arrive(browser, { name: "jonas", colorScheme: "dark", ...DESK }),
    Person.arrive(browser, { name: "ines", ...PHONE }),
  ]);
  await ines.begin("marta", "jonas");
  await ines.say("Who has the key of the boathouse?");
  await ines.page.getByRole("link", { name: "Back to the conversations" }).click();
  await ines.begin("marta");
  await ines.say("Saturday sounds lovely, count me in");
  await marta.begin("jonas");
  for (const [name, text] of TALK) {
    const person = name === "marta" ? marta : jonas;
    await person.say(text);
    if (text === TALK[0][1]) await jonas.open("marta");
    for (const each of [marta, jonas]) await each.sees(text);
  }
  await marta.seesBanner("Connected by polling");
  await jonas.seesStatus(TALK.at(-1)[1], "seen");
  for (const who of ["boathouse", "lovely"]) {
    await marta.page.locator(".toast", { hasText: who }).getByRole("button", { name: "Dismiss" }).click();
  }
  await take(marta, "polling");

  proxy.allowsWebSocket = true;
  await marta.page.evaluate(() => dispatchEvent(new Event("online")));
  await marta.seesNoBanner();
  await jonas.listed("marta").locator(".dot.online").waitFor({ state: "attached" });
  await marta.composer.pressSequentially("I");
  await jonas.page.getByText("marta is typing").waitFor();
  await take(jonas, "dark");
  await marta.composer.fill("");
  await jonas.composer.pressSequentially("By the way");
  await marta.page.getByText("jonas is typing").waitFor();
  await take(marta, "desktop");

  await ines.page.getByRole("link", { name: "Back to the conversations" }).click();
  await jonas.open("ines, marta");
  await jonas.say("It hangs behind the door, as always");
  await ines.listed("jonas, marta").locator(".badge").waitFor();
  await ines.page.locator(".toast").waitFor({ state: "detached" });
  await take(ines, "phone-list");
  await ines.open("jonas, marta");
  await ines.sees("behind the door");
  await take(ines, "phone");

  proxy.cut();
  await marta.say("I found the old chart, too. Bringing it along.");
  await marta.seesBanner("Offline");
  await take(marta, "offline");
  proxy.close();
  for (const person of [marta, jonas, ines]) person.assertNoProblems();
});

async function take({ page }, name) {
  const path = `${IMAGES}/${name}.png`;
  await page.screenshot({ path, animations: "disabled", caret: "initial" });
  const { size } = statSync(path);
  assert.ok(size < LARGEST_BYTES, `${path} has ${size} bytes`);
}
