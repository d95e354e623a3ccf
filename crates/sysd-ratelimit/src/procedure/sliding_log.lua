-- Takes from a sliding log: the twin of sliding_log.rs. Every number here is an integer below 2^53, where a double is exact.
local VERSION, LAST_TIME, ENTRIES_MAX = 1, 9007199254740991, 1000
local window, limit, cost = struct.unpack('>I8I4I4', arguments)
local at, count, used, first = now, 0, 0, 1
local times, costs = {}, {}
if state then
  local size = #state - 1
  count = size / 11
  if count < 1 or count > ENTRIES_MAX or size % 11 ~= 0 or string.byte(state) ~= VERSION then
    return 'undecodable', 'state'
  end
  local before = -1
  for entry = 1, count do
    local time, taken = struct.unpack('>I7I4', state, entry * 11 - 9)
    if time <= before or time > LAST_TIME or taken == 0 or taken > ENTRIES_MAX then return 'undecodable', 'state' end
    times[entry], costs[entry], before = time, taken, time
  end
  at = math.max(times[count], now)
end
while first <= count and at - times[first] >= window do first = first + 1 end
for entry = first, count do used = used + costs[entry] end
local skew = at - now
if cost > 0 and used + cost <= limit then
  local log = string.sub(state or '', first * 11 - 9)
  if count >= first and times[count] == at then
    log = string.sub(log, 1, -5) .. struct.pack('>I4', costs[count] + cost)
  else
    log = log .. struct.pack('>I7I4', at, cost)
  end
  local ttl = nil
  if window <= LAST_TIME - at then ttl = skew + window end
  return 'put', struct.pack('>BI4I8I8I8', 1, used + cost, skew, 0, window), struct.pack('>B', VERSION) .. log, ttl
end
local freed, wait, reset = 0, 0, 0
for entry = first, count do
  if used - freed + cost <= limit then break end
  freed = freed + costs[entry]
  wait = window - (at - times[entry])
end
if count >= first then reset = window - (at - times[count]) end
return 'keep', struct.pack('>BI4I8I8I8', cost == 0 and 1 or 0, used, skew, wait, reset)
