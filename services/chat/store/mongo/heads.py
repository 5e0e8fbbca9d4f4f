"""Finding the heads of conversations: from the log, in a bounded number of round trips.

One conversation is one look-up at the end of its range of `_id`. For many, what their documents record of the last
message tells where to look: it lags behind the log by little, and since the log has no holes, the first seq that is
missing ends it. Only a conversation that has moved further than that costs a look-up of its own.
"""

import asyncio
from collections.abc import Collection, Mapping

from pymongo import DESCENDING
from pymongo.asynchronous.collection import AsyncCollection

from services.chat.model import MAX_SEQ, ConversationId, Seq, message_id_of, parse_message_id
from services.chat.store.mongo.documents import BY_ID, ONE_BATCH, Document, history, recorded_seq

# Up to here a look-up for each is quicker than two round trips for all.
_FEW = 4
# A conversation's document is written a batch behind the log: mostly this little is missing. Each costs one key.
_PROBES = 4


async def find_head(messages: AsyncCollection[Document], conversation_id: ConversationId) -> Seq:
    newest = messages.find(history(conversation_id, 0, MAX_SEQ + 1), {"seq": 1}, hint=BY_ID)
    found = await newest.sort("_id", DESCENDING).limit(1).to_list(None)
    return Seq(found[0]["seq"]) if found else Seq(0)


async def find_heads(
    messages: AsyncCollection[Document],
    conversations: AsyncCollection[Document],
    conversation_ids: Collection[ConversationId],
) -> Mapping[ConversationId, Seq]:
    if len(conversation_ids) <= _FEW:
        return await _look_up(messages, conversation_ids)
    recorded = dict.fromkeys(conversation_ids, Seq(0))
    known = conversations.find({"_id": {"$in": list(recorded)}}, {"lastMessage.seq": 1}, batch_size=ONE_BATCH)
    for document in await known.to_list(None):
        recorded[document["_id"]] = recorded_seq(document)
    return await find_heads_from(messages, recorded)


async def find_heads_from(
    messages: AsyncCollection[Document], recorded: Mapping[ConversationId, Seq]
) -> Mapping[ConversationId, Seq]:
    """The heads of conversations whose heads are `recorded` or later."""
    heads = dict(recorded)
    probes = [
        message_id_of(conversation_id, seq)
        for conversation_id, known in recorded.items()
        for seq in range(known + 1, min(known + _PROBES, MAX_SEQ) + 1)
    ]
    filter_ = {"_id": {"$in": probes}, "conversationId": {"$in": list(recorded)}}
    for document in await messages.find(filter_, {"_id": 1}, hint=BY_ID, batch_size=ONE_BATCH).to_list(None):
        conversation_id, seq = parse_message_id(document["_id"])
        heads[conversation_id] = max(heads[conversation_id], seq)
    moved_far = [each for each, known in recorded.items() if heads[each] == known + _PROBES]
    return {**heads, **await _look_up(messages, moved_far)}


async def _look_up(
    messages: AsyncCollection[Document], conversation_ids: Collection[ConversationId]
) -> Mapping[ConversationId, Seq]:
    heads = await asyncio.gather(*(find_head(messages, each) for each in conversation_ids))
    return dict(zip(conversation_ids, heads, strict=True))
