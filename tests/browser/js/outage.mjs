// The server is killed while both write; one reloads in the middle. Nothing is lost, doubled or out of order.

import assert from "node:assert/strict";

import { ask, eventually, Person, scenario } from "./people.mjs";

await scenario(async (browser) => {
  const [ann, bob] = await Promise.all([Person.arrive(browser), Person.arrive(browser)]);
  await ann.begin(bob.name);
  await ann.say("before");
  await bob.open(ann.name);
  await bob.sees("before");
  await keepsThePage(ann);

  await ask("kill");
  for (const number of [1, 2, 3]) await ann.say(`ann ${number}`);
  for (const number of [1, 2]) await bob.say(`bob ${number}`);
  await ann.seesStatus("ann 3", "queued", "sending");
  await ann.seesBanner("Offline");

  // The page itself comes from the service worker now, what was shown and what waits from the database.
  await ann.page.reload();
  await ann.sees("before");
  await ann.seesStatus("ann 1", "queued", "sending");
  assert.deepEqual(await ann.texts(), ["before", "ann 1", "ann 2", "ann 3"]);
  await ann.say("ann 4");
  await ann.seesStatus("ann 4", "queued");

  await ask("start");
  await Promise.all([ann, bob].map((person) => person.page.evaluate(() => dispatchEvent(new Event("online")))));
  await Promise.all([ann.seesNoBanner(), bob.seesNoBanner()]);
  const all = ["before", "ann 1", "ann 2", "ann 3", "ann 4", "bob 1", "bob 2"];
  for (const person of [ann, bob]) {
    for (const text of all) await person.sees(text);
    await eventually(async () => assert.equal(await person.page.locator(".outgoing").count(), 0));
    const texts = await person.texts();
    assert.deepEqual([...texts].sort(), [...all].sort(), "each once");
    for (const who of ["ann", "bob"]) {
      const theirs = texts.filter((text) => text.startsWith(who));
      assert.deepEqual(theirs, [...theirs].sort(), "in the order of writing");
    }
  }
  assert.deepEqual(await ann.texts(), await bob.texts());
  for (const person of [ann, bob]) person.assertNoProblems();
});

// The service worker has all that a start without a server needs.
async function keepsThePage(person) {
  await eventually(async () => {
    const paths = await person.page.evaluate(async () => {
      const cache = await caches.open("parley-shell-1");
      return (await cache.keys()).map(({ url }) => new URL(url).pathname);
    });
    assert.ok(paths.includes("/"));
    assert.ok(paths.some((path) => path.endsWith(".js")));
    assert.ok(paths.some((path) => path.endsWith(".css")));
  });
  // What is shown is remembered a moment after it has come.
  await eventually(() =>
    person.page.evaluate(async (name) => {
      const database = await new Promise((resolve) => {
        indexedDB.open(`parley.${name}`).onsuccess = (event) => resolve(event.target.result);
      });
      const read = database.transaction("cache").objectStore("cache").getAll();
      const kept = await new Promise((resolve) => (read.onsuccess = () => resolve(read.result)));
      database.close();
      if (!kept.some(({ messages }) => messages?.length > 0)) throw new Error("not remembered yet");
    }, person.name),
  );
}
