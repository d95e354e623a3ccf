-- Takes tokens from a bucket: the twin of token_bucket.rs. Every number here is an integer below
-- 2^53, where a double is exact; spans are whole microseconds and parts of one more.
local VERSION, LAST_TIME, LONGEST = 1, 9007199254740991, 3155760000000000

local denominator, capacity, capacity_part, price, price_part =
  struct.unpack('>I4I8I4I8I4', arguments)
local at, debt, part = now, 0, 0
if state then
  if #state ~= 23 then return 'undecodable', 'state' end
  local version, stored_at, parts
  version, stored_at, debt, part, parts = struct.unpack('>BI7I7I4I4', state)
  if version ~= VERSION or stored_at > LAST_TIME or debt > LONGEST or part >= parts then
    return 'undecodable', 'state'
  end
  -- Written under another rate: round what is owed up.
  if parts ~= denominator and part > 0 then debt, part = debt + 1, 0 end
  if stored_at > now then
    at = stored_at
  elseif now - stored_at > debt then
    debt, part = 0, 0
  else
    debt = debt - (now - stored_at)
  end
end
local skew = at - now
if price == 0 and price_part == 0 then
  return 'keep', struct.pack('>BI8I8I4', 1, skew, debt, part)
end
local after, after_part = debt + price, part + price_part
if after_part >= denominator then
  after, after_part = after + 1, after_part - denominator
end
if after > capacity or (after == capacity and after_part > capacity_part) then
  return 'keep', struct.pack('>BI8I8I4', 0, skew, debt, part)
end
local full_in = after
if after_part > 0 then full_in = full_in + 1 end
local ttl = nil
if at <= LAST_TIME - full_in then ttl = skew + full_in end
return 'put', struct.pack('>BI8I8I4', 1, skew, after, after_part),
  struct.pack('>BI7I7I4I4', VERSION, at, after, after_part, denominator), ttl
