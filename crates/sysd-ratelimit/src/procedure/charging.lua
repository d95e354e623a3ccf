-- Charges a rule unconditionally: the twin of charging.rs. Before it stands asking.lua. Every number here is an integer below 2^53,
-- where a double is exact.
local MOST = 4294967295

-- Each answers the new state and how long it lives, or false if nothing is changed, or nil if the state is undecodable.
local function charge_bucket(state, own, extra, extra_part)
  local action, found = token_bucket(state, now, look_of(1, own))
  if action == 'undecodable' then return nil end
  local denominator, _, skew, debt, part = unpack('>I4', own), unpack('>BI8I8I4', found)
  debt, part = debt + extra, part + extra_part
  if part >= denominator then debt, part = debt + 1, part - denominator end
  if debt >= LONGEST then debt, part = LONGEST, 0 end
  local full_in = part > 0 and debt + 1 or debt
  local at = now + skew
  local ttl = nil
  if at <= LAST_TIME - full_in then ttl = skew + full_in end
  return pack('>BI7I7I4I4', 1, at, debt, part, denominator), ttl
end

-- As a window without a limit would, up to what its counters hold.
local function charge_window(state, own, extra, _, code)
  local action, found = ALGORITHMS[code](state, now, look_of(code, own))
  if action == 'undecodable' then return nil end
  local used = 0
  if code == 3 then
    _, _, _, used = unpack('>BI8I7I4', found)
  elseif code == 4 then
    local current, previous
    _, _, _, current, previous = unpack('>BI8I7I4I4', found)
    used = current + previous
  elseif code == 5 then
    -- An entry notes at most 1,000.
    extra = math.min(extra, 1000)
    if state then
      local time, noted = unpack('>I7I4', state, #state - 10)
      if time >= now then extra = math.min(extra, 1000 - noted) end
    end
  else
    _, _, _, used = unpack('>BI8I8I4', found)
  end
  extra = math.min(extra, MOST - used)
  if extra <= 0 then return false end
  local new_state, ttl
  action, _, new_state, ttl = ALGORITHMS[code](state, now, sub(own, 1, -9) .. pack('>I4I4', MOST, extra))
  -- A window of which nothing is known admits nothing anyway, and neither does a log of 1,000 entries.
  if action ~= 'put' or (code == 5 and #new_state > 11001) then return false end
  return new_state, ttl
end

local CHARGE = {charge_bucket, charge_bucket, charge_window, charge_window, charge_window, charge_window}

-- Whether that changed anything; nil if the state is undecodable.
local function charge(rule, extra, extra_part)
  local code, entry = rule[2], live_entry(rule[1], rule[2])
  local new_state, ttl = CHARGE[code](entry and entry[4], rule[3], extra, extra_part, code)
  if not new_state then return new_state end
  rule[5], rule[6], rule[7] = new_state, expiry_of(entry, code, ttl), entry
  write(rule)
  return true
end

