-- Begins a group in one partition, or moves it there.
-- KEYS: the stream, the group's record. ARGV: 'begin' or 'move'; 'oldest', 'newest', 'time' or 'number'; which.
-- Answers 0: it has begun already. 1: done. 2: somebody owns the partition.
local group = redis.call('HMGET', KEYS[2], 'next', 'owner', 'token', 'until')
local time = redis.call('TIME')
if ARGV[1] == 'begin' and group[1] then return 0 end
if group[2] and tonumber(group[4]) > time[1] * 1000000 + time[2] then return 2 end
local function number_of(event) return tonumber(string.match(event[1], '%d+$')) end
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local low, high = first and number_of(first) or 1, last and number_of(last) + 1 or 1
local next = low
if ARGV[2] == 'newest' then
  next = high
elseif ARGV[2] == 'number' then
  -- The first number is 1.
  next = math.max(1, math.min(tonumber(ARGV[3]), high))
elseif ARGV[2] == 'time' then
  local below, above = low, high
  while below < above do
    local middle = math.floor((below + above) / 2)
    local at = string.format('0-%.0f', middle)
    local event = redis.call('XRANGE', KEYS[1], at, '+', 'COUNT', 1)[1]
    if event and struct.unpack('>I8', event[2][2], 2) < tonumber(ARGV[3]) then below = middle + 1 else above = middle end
  end
  next = below
end
-- A higher token: who owned it before does not commit over this.
redis.call('HDEL', KEYS[2], 'owner', 'until')
redis.call('HSET', KEYS[2], 'next', string.format('%.0f', next), 'token', string.format('%.0f', (group[3] or 0) + 1))
return 1
