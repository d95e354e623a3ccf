-- Gives back what was taken of a rule: the twin of giving.rs, which says why it is so much and no more. Before it stand taken.lua and
-- entries.lua. Every number here is an integer below 2^53, where a double is exact.

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

-- Each answers the new state ('': it says nothing any more), or false if nothing is changed, or nil if the state is undecodable.
local function to_bucket(entry, taken, moment)
  local state = entry[4]
  if #state ~= 23 then return nil end
  local version, at, debt, part, parts = unpack('>BI7I7I4I4', state)
  if version ~= 1 or at > LAST_TIME or debt > LONGEST or part >= parts then return nil end
  if at < taken.at then return false end
  -- Of a queue only the last place: those behind another one have been told when to go.
  local is_last = parts == taken.parts and at - taken.at == taken.debt - debt and part == taken.debt_part
  if taken.code == 2 and not is_last then return false end
  local price, price_part, denominator = taken.price, taken.price_part, taken.parts
  -- How long the take weighs in full or in part, if what it found has not been lessened by giving back.
  local weighs, weighs_part = taken.debt - given_since(entry, taken.high, taken.low), taken.debt_part
  if weighs < price or (weighs == price and weighs_part < price_part) then weighs, weighs_part = price, price_part end
  local owed, owed_part = weighs - (math.max(at, moment) - taken.at), weighs_part
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
  return pack('>BI7I7I4I4', 1, at, debt, part, denominator)
end

local function to_window(entry, taken)
  local state = entry[4]
  if #state ~= 12 then return nil end
  local version, at, count = unpack('>BI7I4', state)
  if version ~= 1 or at > LAST_TIME then return nil end
  if at < taken.at or entry[3] ~= taken.ends then return false end
  return pack('>BI7I4', 1, at, math.max(count - taken.cost, 0))
end

local function to_sliding(entry, taken)
  local state = entry[4]
  if #state ~= 16 then return nil end
  local version, at, current, previous = unpack('>BI7I4I4', state)
  if version ~= 1 or at > LAST_TIME then return nil end
  if at < taken.at then return false end
  if entry[3] == taken.ends then
    current = math.max(current - taken.cost, 0)
  elseif taken.ends > 0 and entry[3] == expiry(taken.ends + taken.window) then
    previous = math.max(previous - taken.cost, 0)
  else
    return false
  end
  return pack('>BI7I4I4', 1, at, current, previous)
end

local function to_log(entry, taken)
  local state = entry[4]
  local size = #state - 1
  local length = size / 11
  if length < 1 or length > 1000 or size % 11 ~= 0 or byte(state) ~= 1 then return nil end
  local before, found = -1, nil
  for index = 1, length do
    local time, noted = unpack('>I7I4', state, index * 11 - 9)
    if time <= before or time > LAST_TIME or noted == 0 or noted > 1000 then return nil end
    if time == taken.at then found = index end
    before = time
  end
  if not found then return false end
  local head, tail = sub(state, 1, found * 11 - 10), sub(state, found * 11 + 2)
  local _, noted = unpack('>I7I4', state, found * 11 - 9)
  if noted > taken.cost then return head .. pack('>I7I4', taken.at, noted - taken.cost) .. tail end
  if found == length and taken.at > now then return false end
  if length == 1 then return '' end
  return head .. tail
end

local GIVE = {to_bucket, to_bucket, to_window, to_sliding, to_log, to_window}

-- Gives back as at a moment, before which nobody has asked since: whether that changed anything; nil if the state is undecodable.
local function give_back(taken, moment)
  local entry = live_entry(taken.id, taken.code)
  if not entry then return false end
  local new_state = GIVE[taken.code](entry, taken, moment)
  if new_state then entry[4], entry[5] = new_state, true end
  return new_state and true
end

