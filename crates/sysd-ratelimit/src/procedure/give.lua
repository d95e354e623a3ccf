-- Gives back what was taken from several rules: the twin of give.rs, which says why it is so much and no more. Before it stands
-- entries.lua. Every number here is an integer below 2^53, where a double is exact.
local LONGEST = 3155760000000000

-- When a state expires whose last window ends there.
local function expiry(ends)
  return ends <= LAST_TIME and ends or 0
end

-- What was given back to a bucket since its record said so much; more than all if nobody knows. Above 2^53 it is not exact, and more than
-- any bucket owes.
local function given_since(entry, high, low)
  local now_high, now_low = 0, 0
  if entry[6] ~= '' then now_high, now_low = unpack('>I4I4', entry[6]) end
  local since = (now_high - high) * 4294967296 + (now_low - low)
  if since < 0 or now_high == NOBODY_KNOWS then return LAST_TIME end
  return since
end

local function count_given(entry, us)
  local high, low = 0, us
  if entry[6] ~= '' then
    high, low = unpack('>I4I4', entry[6])
    low = low + us
  end
  local carry = (low - low % 4294967296) / 4294967296
  high, low = high + carry, low % 4294967296
  if high >= NOBODY_KNOWS then high, low = NOBODY_KNOWS, 0 end
  entry[6] = pack('>I4I4', high, low)
end

-- Each answers the new state ('': it says nothing any more) and when it expires, or false if nothing is changed, or nil if
-- the state is undecodable.
local function to_bucket(state, expires, taken, arguments, entry, owing)
  if #state ~= 23 then return nil end
  local version, at, debt, part, parts = unpack('>BI7I7I4I4', state)
  if version ~= 1 or at > LAST_TIME or debt > LONGEST or part >= parts then return nil end
  local denominator, _, _, price, price_part = unpack('>I4I8I4I8I4', arguments)
  if at < taken then return false end
  -- How long the take weighs in full or in part, if what it found has not been lessened by giving back.
  local weighs, weighs_part, high, low = unpack('>I8I4I4I4', owing)
  weighs = weighs - given_since(entry, high, low)
  if weighs < price or (weighs == price and weighs_part < price_part) then weighs, weighs_part = price, price_part end
  local owed, owed_part = weighs - (math.max(at, now) - taken), weighs_part
  if owed > price or (owed == price and owed_part > price_part) then owed, owed_part = price, price_part end
  if parts ~= denominator then
    owed_part = 0
    if part > 0 then debt, part = debt + 1, 0 end
  end
  if owed < 0 or (owed == 0 and owed_part == 0) then return false end
  if debt < owed or (debt == owed and part <= owed_part) then owed, owed_part = debt, part end
  count_given(entry, owed_part > 0 and owed + 1 or owed)
  debt, part = debt - owed, part - owed_part
  if part < 0 then debt, part = debt - 1, part + denominator end
  return pack('>BI7I7I4I4', 1, at, debt, part, denominator), expires
end

local function to_fixed(state, expires, taken, arguments)
  if #state ~= 12 then return nil end
  local version, at, count = unpack('>BI7I4', state)
  if version ~= 1 or at > LAST_TIME then return nil end
  local window, _, cost = unpack('>I8I4I4', arguments)
  if expires ~= expiry(at - at % window + window) then return false end
  if at < taken or at - taken > at % window then return false end
  return pack('>BI7I4', 1, at, math.max(count - cost, 0)), expires
end

local function to_calendar(state, expires, taken, arguments)
  if #state ~= 12 then return nil end
  local version, at, count = unpack('>BI7I4', state)
  if version ~= 1 or at > LAST_TIME then return nil end
  local cost, begin, ends = unpack('>I4', arguments, 69), nil, nil
  for index = 1, 7 do
    local bound, next_bound = unpack('>I8I8', arguments, 8 * index - 7)
    if bound <= at and at < next_bound then begin, ends = bound, next_bound end
  end
  if not begin or taken < begin or taken > at or expires ~= expiry(ends) then return false end
  return pack('>BI7I4', 1, at, math.max(count - cost, 0)), expires
end

local function to_sliding(state, expires, taken, arguments)
  if #state ~= 16 then return nil end
  local version, at, current, previous = unpack('>BI7I4I4', state)
  if version ~= 1 or at > LAST_TIME then return nil end
  local window, _, _, _, cost = unpack('>I8I8I8I4I4', arguments)
  local into = at % window
  if expires ~= expiry(at - into + 2 * window) then return false end
  if at < taken or at - taken > into + window then return false end
  if at - taken <= into then
    current = math.max(current - cost, 0)
  else
    previous = math.max(previous - cost, 0)
  end
  return pack('>BI7I4I4', 1, at, current, previous), expires
end

local function to_log(state, expires, taken, arguments)
  local size = #state - 1
  local count = size / 11
  if count < 1 or count > 1000 or size % 11 ~= 0 or byte(state) ~= 1 then return nil end
  local _, _, cost = unpack('>I8I4I4', arguments)
  local before, found = -1, nil
  for entry = 1, count do
    local time, noted = unpack('>I7I4', state, entry * 11 - 9)
    if time <= before or time > LAST_TIME or noted == 0 or noted > 1000 then return nil end
    if time == taken then found = entry end
    before = time
  end
  if not found then return false end
  local head, tail = sub(state, 1, found * 11 - 10), sub(state, found * 11 + 2)
  local _, noted = unpack('>I7I4', state, found * 11 - 9)
  if noted > cost then return head .. pack('>I7I4', taken, noted - cost) .. tail, expires end
  if found == count and taken > now then return false end
  if count == 1 then return '', 0 end
  return head .. tail, expires
end

local GIVE = {to_bucket, to_bucket, to_fixed, to_sliding, to_log, to_calendar}
local given, at = 0, 1
while at <= #arguments do
  local id, code, length, taken = unpack('>I4BBI8', arguments, at)
  local owing, own = sub(arguments, at + 14, at + 33), sub(arguments, at + 34, at + 33 + length)
  at = at + 34 + length
  local entry = live_entry(id, code)
  if entry then
    local new_state, expires = GIVE[code](entry[4], entry[3], taken, own, entry, owing)
    if new_state == nil then return 'undecodable', 'state' end
    if new_state then
      given = given + 1
      entry[3], entry[4], entry[5] = expires, new_state, true
    end
  end
end
if given == 0 then return 'keep', pack('>B', 0) end

local record, last = {pack('>B', 1)}, 0
for _, entry in ipairs(entries) do
  local is_kept = entry[3] == 0 or entry[3] > now
  if entry[5] then is_kept = entry[4] ~= '' end
  if is_kept then
    record[#record + 1] = packed(entry)
    last = last and entry[3] ~= 0 and math.max(last, entry[3])
  end
end
if #record == 1 then return 'delete', pack('>B', given) end
return 'put', pack('>B', given), table.concat(record), last and last - now or nil
