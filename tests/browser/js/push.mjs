// What is pushed to a page that is not open: shown with its sender, taken away again when it was read elsewhere.

import assert from "node:assert/strict";

import { eventually, Person, scenario, URL_OF_PARLEY } from "./people.mjs";

await scenario(async (browser) => {
  const ann = await Person.arrive(browser, { permissions: ["notifications"] });
  await ann.page.evaluate(() => navigator.serviceWorker.ready.then(() => {}));
  const inspector = await ann.context.newCDPSession(ann.page);
  const worker = new Promise((resolve) => inspector.on("ServiceWorker.workerRegistrationUpdated", resolve));
  await inspector.send("ServiceWorker.enable");
  const { registrations } = await worker;
  const push = (note) =>
    inspector.send("ServiceWorker.deliverPushMessage", {
      origin: URL_OF_PARLEY,
      registrationId: registrations[0].registrationId,
      data: JSON.stringify(note),
    });
  const shown = () =>
    ann.page.evaluate(async () => {
      const registration = await navigator.serviceWorker.ready;
      return (await registration.getNotifications()).map(({ title, body, tag }) => `${title}: ${body} (${tag})`);
    });

  const note = { event: "message", conversationId: "c1", senderId: "bob", preview: "<b>hello</b>" };
  await push({ ...note, tag: "c1-1" });
  await push({ ...note, tag: "c1-1" });
  await push({ ...note, tag: "c2-1", conversationId: "c2" });
  const both = ["bob: <b>hello</b> (c1-1)", "bob: <b>hello</b> (c2-1)"];
  await eventually(async () => assert.deepEqual((await shown()).sort(), both));
  await push({ event: "read", conversationId: "c1", readSeq: 1, unreadCount: 0 });
  await eventually(async () => assert.deepEqual(await shown(), [both[1]]));
  ann.assertNoProblems();
});
