-- Takes from a window of the calendar: the twin of calendar.rs. Every number here is an integer below 2^53, where a double is
-- exact.
local VERSION, LAST_TIME, BOUNDS = 1, 9007199254740991, 8
local limit, cost = struct.unpack('>I4I4', arguments, 8 * BOUNDS + 1)
local at, used, stored_at = now, 0, nil
if state then
  if #state ~= 12 then return 'undecodable', 'state' end
  local version, count
  version, stored_at, count = struct.unpack('>BI7I4', state)
  if version ~= VERSION or stored_at > LAST_TIME then return 'undecodable', 'state' end
  at = math.max(stored_at, now)
  used = count
end
local skew, begin, ends = at - now, nil, nil
local bound = struct.unpack('>I8', arguments)
for index = 2, BOUNDS do
  local next_bound = struct.unpack('>I8', arguments, 8 * index - 7)
  if bound <= at and at < next_bound then begin, ends = bound, next_bound end
  bound = next_bound
end
if not begin then
  local first, second = struct.unpack('>I8I8', arguments)
  return 'keep', struct.pack('>BI8I8I4', cost == 0 and 1 or 0, skew, math.max(second - first, 1), limit)
end
if stored_at and stored_at < begin then used = 0 end
local allowed = cost == 0 or used + cost <= limit
if cost == 0 or not allowed then
  return 'keep', struct.pack('>BI8I8I4', allowed and 1 or 0, skew, ends - at, used)
end
local ttl = nil
if ends <= LAST_TIME then ttl = skew + (ends - at) end
return 'put', struct.pack('>BI8I8I4', 1, skew, ends - at, used + cost), struct.pack('>BI7I4', VERSION, at, used + cost), ttl
