-- Takes from a fixed window: the twin of fixed_window.rs. Every number here is an integer below 2^53, where a double is exact,
-- and so is a % b: a quotient so small is never rounded up to the next integer.
local VERSION, LAST_TIME = 1, 9007199254740991
local window, limit, cost = struct.unpack('>I8I4I4', arguments)
local at, used, stored_at = now, 0, nil
if state then
  if #state ~= 12 then return 'undecodable', 'state' end
  local version, count
  version, stored_at, count = struct.unpack('>BI7I4', state)
  if version ~= VERSION or stored_at > LAST_TIME then return 'undecodable', 'state' end
  if stored_at > now then at = stored_at end
  used = count
end
local into = at % window
if stored_at and at - stored_at > into then used = 0 end
local allowed = cost == 0 or used + cost <= limit
if cost == 0 or not allowed then
  return 'keep', struct.pack('>BI8I7I4', allowed and 1 or 0, at - now, into, used)
end
local ttl = nil
if window - into <= LAST_TIME - at then ttl = (at - now) + (window - into) end
return 'put', struct.pack('>BI8I7I4', 1, at - now, into, used + cost), struct.pack('>BI7I4', VERSION, at, used + cost), ttl
