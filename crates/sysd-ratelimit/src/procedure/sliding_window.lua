-- Takes from a sliding window of two counters: the twin of sliding_window.rs. Every number here is an integer below 2^53, where a
-- double is exact, and so is a % b: a quotient so small is never rounded up to the next integer.
local VERSION, LAST_TIME = 1, 9007199254740991
local window, step, steps, limit, cost = struct.unpack('>I8I8I8I4I4', arguments)
local at, used, previous, stored_at = now, 0, 0, nil
if state then
  if #state ~= 16 then return 'undecodable', 'state' end
  local version
  version, stored_at, used, previous = struct.unpack('>BI7I4I4', state)
  if version ~= VERSION or stored_at > LAST_TIME then return 'undecodable', 'state' end
  if stored_at > now then at = stored_at end
end
local into = at % window
if stored_at and at - stored_at > into then
  if at - stored_at <= into + window then used, previous = 0, used else used, previous = 0, 0 end
end
local left = window - into
local over = left % step
local covered = (left - over) / step
if over > 0 then covered = covered + 1 end
local allowed = cost == 0 or (used + cost) * steps + previous * covered <= limit * steps
if cost == 0 or not allowed then
  return 'keep', struct.pack('>BI8I7I4I4', allowed and 1 or 0, at - now, into, used, previous)
end
local ttl = nil
if left + window <= LAST_TIME - at then ttl = (at - now) + left + window end
return 'put', struct.pack('>BI8I7I4I4', 1, at - now, into, used + cost, previous),
  struct.pack('>BI7I4I4', VERSION, at, used + cost, previous), ttl
