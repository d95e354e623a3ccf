-- Asks about the slots of a key: the twin of slots.rs. Every number here is an integer below 2^53, where a double is exact; two of
-- them are compared before they are added.
local VERSION, LAST_TIME, HOLDERS_MAX, HOLDER = 1, 9007199254740991, 1000, 25
local DENIED, HELD, LOST = 0, 1, 2
local NOBODY = string.rep('\0', 16)
local ask, limit, cost, hold = struct.unpack('>BI4I4I8', arguments)
local holder = string.sub(arguments, 18, 33)

local at, held, in_use, own = now, {}, 0, nil
if state then
  local size = #state - 8
  local count = size / HOLDER
  if count < 1 or count > HOLDERS_MAX or size % HOLDER ~= 0 or string.byte(state) ~= VERSION then
    return 'undecodable', 'state'
  end
  local written = struct.unpack('>I7', state, 2)
  at = math.max(written, now)
  local earliest = written + 1
  for index = 1, count do
    local start = 9 + (index - 1) * HOLDER
    local whose = string.sub(state, start, start + 15)
    local slots, till = struct.unpack('>I2I7', state, start + 16)
    if whose == NOBODY or slots == 0 or slots > HOLDERS_MAX or till < earliest or till > LAST_TIME then
      return 'undecodable', 'state'
    end
    earliest = till
    if till > at then
      held[#held + 1] = {whose, slots, till}
      in_use = in_use + slots
      if whose == holder then own = own or #held end
    end
  end
end

local function answer(tag, slots, till)
  return struct.pack('>BI8I4I4I4I8', tag, now, in_use, #held, slots, till)
end

local function written(output)
  if #held == 0 then return 'delete', output end
  local record = {struct.pack('>BI7', VERSION, at)}
  for index, one in ipairs(held) do record[index + 1] = one[1] .. struct.pack('>I2I7', one[2], one[3]) end
  return 'put', output, table.concat(record), held[#held][3] - now
end

if ask == 3 or (not own and ask > 0) then return 'keep', answer(LOST, 0, 0) end
if ask == 2 then
  local gone = table.remove(held, own)
  in_use = in_use - gone[2]
  return written(answer(HELD, gone[2], gone[3]))
end
local till = LAST_TIME
if hold < LAST_TIME - at then till = at + hold end
-- At the end of time nothing can be held.
if not own and (in_use + cost > limit or till <= at) then
  local freed, returned = 0, 0
  for _, one in ipairs(held) do
    freed = freed + one[2]
    if in_use - freed + cost <= limit then
      returned = one[3]
      break
    end
  end
  return 'keep', answer(DENIED, 0, returned)
end
local mine = {holder, cost, till}
if own then
  mine = table.remove(held, own)
  mine[3] = math.max(mine[3], till)
else
  in_use = in_use + cost
end
local place = 1
while held[place] and held[place][3] <= mine[3] do place = place + 1 end
table.insert(held, place, mine)
return written(answer(HELD, mine[2], mine[3]))
