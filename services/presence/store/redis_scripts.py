"""What Redis decides in one step, in Lua: the same rules as `machine.admit`, `is_superseded`, `has_been_unattended` and
`is_over`, which have to be judged together with the write. Everything else is decided by `machine` and comes here as
a compare-and-set. tests/contract/presence holds both stores to the same rules.

Each script reads Redis's own clock: replicas need not agree on the time. Some make key names from a prefix; those lie
in the slot of the keys that are named (`redis_keys`).
"""

import hashlib
from typing import Final

_NOW: Final = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local function whole(number) return string.format('%.0f', number) end
"""


class Script:
    """Source and name (EVALSHA)."""

    def __init__(self, source: str) -> None:
        self.source = _NOW + source
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


# KEYS era, ticked, sweep, edges
# ARGV name of a new era, settle, gap, TTL, claim (all ms), prefix of leases, FINAL
# → now, era, claimed, then for each edge: edge, "seq:expires", alive
TICK: Final = Script("""
local settle, gap, ttl = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local last = redis.call('GET', KEYS[2])
local era = redis.call('GET', KEYS[1])
if not era or not last or now < tonumber(last) or now - tonumber(last) > gap then
  era = ARGV[1] .. ':' .. whole(now + settle)
  redis.call('SET', KEYS[1], era)
end
redis.call('SET', KEYS[2], whole(now))
local claimed = redis.call('SET', KEYS[3], '1', 'NX', 'PX', ARGV[5]) and 1 or 0
if claimed == 0 and redis.call('PTTL', KEYS[3]) > tonumber(ARGV[5]) then  -- the clock went back
  redis.call('PEXPIRE', KEYS[3], ARGV[5])
end
local result = {whole(now), era, claimed}
local edges = redis.call('HGETALL', KEYS[4])
for i = 1, #edges, 2 do
  local lease = ARGV[6] .. edges[i]
  local left = redis.call('PTTL', lease)
  local is_final = string.match(edges[i + 1], '^%d+') == ARGV[7]
  if left > ttl and not is_final then  -- the clock went back
    redis.call('PEXPIRE', lease, ttl)
  end
  result[#result + 1] = edges[i]
  result[#result + 1] = edges[i + 1]
  result[#result + 1] = left > 0 and not is_final and 1 or 0
end
return result
""")

# KEYS lease, edges
# ARGV edge, seq, 1 for a full report, TTL (ms), FINAL
# → now, 'taken' | 'needs_full' | 'superseded'
ADMIT: Final = Script("""
local known = redis.call('HGET', KEYS[2], ARGV[1])
local lease = redis.call('GET', KEYS[1])
if lease == ARGV[5] or (known and tonumber(ARGV[2]) < tonumber(string.match(known, '^%d+'))) then
  return {whole(now), 'superseded'}
end
if ARGV[3] ~= '1' and not lease then
  return {whole(now), 'needs_full'}
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[4])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. ':' .. whole(now + tonumber(ARGV[4])))
return {whole(now), 'taken'}
""")

# KEYS lease, edges
# ARGV edge, FINAL, how long that is remembered (ms)
# → now
END: Final = Script("""
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. ':' .. whole(now))
return whole(now)
""")

# KEYS edges
# ARGV edge, "seq:expires" as it was read
FORGET: Final = Script("""
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
  redis.call('HDEL', KEYS[1], ARGV[1])
end
return 1
""")

# KEYS fence, members, due, edges of the shard, then a user's each
# ARGV seq (0: no origin), take by, TTL of the fence (0: none), edge, channel, announcement (empty: none),
#      then for each user: id, value expected, new value, end of the grace, 1 where on the edge (each empty: none)
# → 'made' | 'superseded' | 'conflict'
COMMIT: Final = Script("""
local seq, take_by = tonumber(ARGV[1]), tonumber(ARGV[2])
if seq > 0 then
  local fence = redis.call('GET', KEYS[1])
  if (take_by > 0 and now > take_by) or (fence and seq < tonumber(fence)) then
    return 'superseded'
  end
end
for i = 5, #KEYS do
  if (redis.call('GET', KEYS[i]) or '') ~= ARGV[(i - 5) * 5 + 8] then
    return 'conflict'
  end
end
if seq > 0 then
  if ARGV[3] == '0' then
    redis.call('SET', KEYS[1], ARGV[1])
    redis.call('SADD', KEYS[4], ARGV[4])
  else
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
  end
end
for i = 5, #KEYS do
  local at = (i - 5) * 5 + 7
  local user, value, due = ARGV[at], ARGV[at + 2], ARGV[at + 3]
  if value == '' then redis.call('DEL', KEYS[i]) else redis.call('SET', KEYS[i], value) end
  if due == '' then redis.call('ZREM', KEYS[3], user) else redis.call('ZADD', KEYS[3], due, user) end
  if seq > 0 then
    redis.call(ARGV[at + 4] == '1' and 'SADD' or 'SREM', KEYS[2], user)
  end
end
if seq > 0 and ARGV[3] ~= '0' and redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('SREM', KEYS[4], ARGV[4])
end
if ARGV[6] ~= '' then
  redis.call('PUBLISH', ARGV[5], ARGV[6])
end
return 'made'
""")

# KEYS due
# ARGV grace (ms), limit
# → users whose grace is over, or ends later than any can (the clock went back)
DUE: Final = Script("""
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', whole(now), 'LIMIT', 0, ARGV[2])
if #due == 0 then
  due = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. whole(now + tonumber(ARGV[1])), '+inf', 'LIMIT', 0, ARGV[2])
end
return due
""")

# KEYS a user's activity each
# ARGV TTL (ms), then a time (ms) for each
ACTIVITY: Final = Script("""
for i = 1, #KEYS do
  local at = math.min(tonumber(ARGV[i + 1]), now)
  local known = redis.call('GET', KEYS[i])
  if not known or tonumber(known) < at then
    redis.call('SET', KEYS[i], whole(at), 'PX', ARGV[1])
  end
end
return 1
""")

ALL: Final = (TICK, ADMIT, END, FORGET, COMMIT, DUE, ACTIVITY)
