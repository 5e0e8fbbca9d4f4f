// Behind a proxy that refuses WebSocket: everything works, says so, and returns to WebSocket when it can.

import assert from "node:assert/strict";

import { eventually, Person, scenario, URL_OF_PARLEY } from "./people.mjs";
import { startProxy } from "./proxy.mjs";

const proxy = await startProxy(URL_OF_PARLEY);
await scenario(async (browser) => {
  const ann = await Person.arrive(browser, { url: proxy.url });
  const bob = await Person.arrive(browser);
  await ann.seesBanner("Connected by polling");
  assert.ok(proxy.refused >= 2, "WebSocket comes first");

  await ann.begin(bob.name);
  await ann.say("over polling");
  await bob.open(ann.name);
  await ann.seesStatus("over polling", "seen");
  await bob.composer.pressSequentially("b");
  await ann.page.getByText(`${bob.name} is typing`).waitFor();
  await bob.say("back to you");
  await ann.sees("back to you");

  // Not yet: a look for a WebSocket that fails changes nothing.
  const refused = proxy.refused;
  await ann.page.evaluate(() => dispatchEvent(new Event("online")));
  await eventually(async () => assert.ok(proxy.refused > refused));
  await ann.seesBanner("Connected by polling");

  proxy.allowsWebSocket = true;
  await ann.page.evaluate(() => dispatchEvent(new Event("online")));
  await ann.seesNoBanner();
  await ann.isOnline();
  await bob.say("still there?");
  await ann.say("over WebSocket");
  await ann.seesStatus("over WebSocket", "seen");
  assert.deepEqual(await ann.texts(), ["over polling", "back to you", "still there?", "over WebSocket"]);
  for (const person of [ann, bob]) person.assertNoProblems();
}).finally(proxy.close);
