-- Reads on in one partition for a member, who comes to own it if nobody else does.
-- KEYS: the stream, the group's record. ARGV: the member; its session, microseconds; the token that it owns the partition by;
-- the number and the head of the last event that it was handed, or nothing; how many events, and bytes, it wants.
-- Answers 0: somebody else owns it. 1, token, number of the first event wanted, events. 2: there is no such group.
-- A higher token: what the member was handed under the one before is not to be committed any more.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local group = redis.call('HMGET', KEYS[2], 'next', 'owner', 'token', 'until')
local from, owner, token, till = group[1], group[2], group[3] or '0', group[4]
if not from then return { 2 } end
if owner == ARGV[1] and token == ARGV[3] then
  if ARGV[4] ~= '' then
    local at = '0-' .. ARGV[4]
    local last = redis.call('XRANGE', KEYS[1], at, at)[1]
    local first = not last and redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
    local is_trimmed = first and tonumber(string.match(first[1], '%d+$')) > tonumber(ARGV[4])
    -- Where another event has its number, or none has, a failover took back what was handed out: begin where it is committed.
    if is_trimmed or last and last[2][2] == ARGV[5] then
      from = string.format('%.0f', tonumber(ARGV[4]) + 1)
    else
      token = string.format('%.0f', tonumber(token) + 1)
    end
  end
else
  if owner and owner ~= ARGV[1] and tonumber(till) > now then return { 0 } end
  token = string.format('%.0f', tonumber(token) + 1)
end
redis.call('HSET', KEYS[2], 'owner', ARGV[1], 'token', token, 'until', string.format('%.0f', now + tonumber(ARGV[2])))
local events, left, room, start = {}, tonumber(ARGV[6]), tonumber(ARGV[7]), '0-' .. from
while left > 0 and room > 0 do
  local count = math.min(left, 64)
  local some = redis.call('XRANGE', KEYS[1], start, '+', 'COUNT', count)
  for _, event in ipairs(some) do
    if room <= 0 then break end
    events[#events + 1] = event
    room = room - #event[2][4] - #event[2][6] - 64
    start = '(' .. event[1]
  end
  left = left - #some
  if #some < count then break end
end
return { 1, token, from, events, room <= 0 and 1 or 0 }
