-- The record behind KEYS: a string (one key), or a field of a hash with its sort key in a sorted set (two keys).
-- A record is a format byte, the version (16), the expiry (8, big-endian microseconds, zero: never), the value.
-- Times are packed with struct and are exact as doubles below 2^53; strings are never compared in order.
local HEADER = 25
-- Expired rows are reclaimed this long after their expiry, so that no caller whose clock is late still sees them.
local GRACE_US = 60000000

-- The time that a call brings, or the server's own where it brings none.
local function time_of(packed)
  if packed ~= '' then return (struct.unpack('>I8', packed)) end
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function load(sort)
  if #KEYS == 1 then return redis.call('GET', KEYS[1]) end
  return redis.call('HGET', KEYS[1], sort)
end

local function store(sort, record, px)
  if #KEYS == 2 then
    -- In this order: were one key of another type, a reader would see no difference.
    redis.call('ZADD', KEYS[2], 0, sort)
    redis.call('HSET', KEYS[1], sort, record)
  elseif px == '' then
    redis.call('SET', KEYS[1], record)
  else
    redis.call('SET', KEYS[1], record, 'PX', px)
  end
end

local function remove(sort)
  redis.call('DEL', KEYS[1])
end
if #KEYS == 2 then
  remove = function(sort)
    redis.call('ZREM', KEYS[2], sort)
    redis.call('HDEL', KEYS[1], sort)
  end
end

local function is_corrupt(record)
  return #record < HEADER or string.byte(record) ~= 1
end

local function expiry(record)
  return (struct.unpack('>I8', string.sub(record, 18, HEADER)))
end

local function is_live(record, now)
  local at = expiry(record)
  return at == 0 or at > now
end
