-- Takes, holds and settles: the twin of holds.rs. Before it stand holding.lua, giving.lua, asking.lua and charging.lua. Every number
-- here is an integer below 2^53, where a double is exact.
local RESERVE, SETTLE = 1, 2
local DENIED, DONE, NOT_HELD, FULL, KEPT = 0, 1, 2, 3, 4
local ask, hold_for, real = byte(arguments), unpack('>I8I4', arguments, 18)
local id, asked, changed = sub(arguments, 2, 17), read_asked(30), false

-- What is due comes back as of its deadline: nobody has asked since.
while holds[1] and holds[1].till <= held_at do
  local due = table.remove(holds, 1)
  changed = true
  for _, taken in ipairs(due.parts) do
    if give_back(taken, due.till) == nil then return 'undecodable', 'state' end
  end
end

-- Makes what was taken from a rule what it really cost; nil if its state is undecodable. Of a rule that is gone nobody knows what a
-- part costs.
local function settle(taken)
  if real == 0 then return give_back(taken, now) end
  local rule = nil
  for _, other in ipairs(asked) do
    if other[1] == taken.id and other[2] == taken.code then rule = other end
  end
  if not rule then return false end
  if taken.code > 2 then
    if real > taken.cost then return charge(rule, real - taken.cost, 0) end
    taken.cost = taken.cost - real
    return taken.cost > 0 and give_back(taken, now)
  end
  local parts, _, _, price, price_part = unpack('>I4I8I4I8I4', rule[3])
  local held, held_part = taken.price, taken.price_part
  if parts ~= taken.parts then
    if price_part > 0 then price, price_part = price + 1, 0 end
    held_part = 0
  end
  if price == held and price_part == held_part then return false end
  if price > held or (price == held and price_part > held_part) then
    price, price_part = price - held, price_part - held_part
    if price_part < 0 then price, price_part = price - 1, price_part + parts end
    return charge(rule, price, price_part)
  end
  taken.price, taken.price_part = held - price, held_part - price_part
  if taken.price_part < 0 then taken.price, taken.price_part = taken.price - 1, taken.price_part + taken.parts end
  return give_back(taken, now)
end

local function hold(new)
  local place = 1
  while holds[place] and holds[place].till <= new.till do place = place + 1 end
  table.insert(holds, place, new)
  changed = true
end

local own = nil
for index, held in ipairs(holds) do
  if held.id == id then own = own or index end
end
local longer = LAST_TIME
if hold_for < LAST_TIME - held_at then longer = held_at + hold_for end
local takes, tag, till = ask < SETTLE, DONE, 0
if ask == SETTLE then
  tag = NOT_HELD
  if own then
    tag, changed = DONE, true
    for _, taken in ipairs(table.remove(holds, own).parts) do
      if settle(taken) == nil then return 'undecodable', 'state' end
    end
  end
elseif ask == RESERVE then
  if own then
    takes, tag, till = false, KEPT, holds[own].till
    if longer > till then
      till = longer
      local held = table.remove(holds, own)
      held.till = till
      hold(held)
    end
  elseif #holds >= HOLDS_MAX or longer <= held_at then
    takes, tag, till = false, FULL, holds[1] and holds[1].till or 0
  end
end

local denied = ask_all(asked, not takes)
if denied == nil then return 'undecodable', 'state' end
local answer, writes = answer_of(asked, denied)
if denied then
  tag = DENIED
elseif writes then
  local new = {id = id, till = longer, parts = {}}
  for _, rule in ipairs(asked) do
    if rule[5] then
      local code, own_arguments, new_state, entry = rule[2], rule[3], rule[5], rule[7]
      local at, cost, more = unpack('>I7', new_state, 2), real, ''
      if code <= 2 then
        local _, _, debt, part, parts = unpack('>BI7I7I4I4', new_state)
        local _, _, _, price, price_part = unpack('>I4I8I4I8I4', own_arguments)
        more = pack('>I4I7I4I7I4', parts, price, price_part, debt, part) .. (entry and entry[6] ~= '' and entry[6] or NOTHING)
      elseif code == 4 then
        more = pack('>I7I7', rule[6], unpack('>I8', own_arguments), 0)
      elseif code == 5 then
        at = unpack('>I7', new_state, #new_state - 10)
      else
        more = pack('>I7', rule[6])
      end
      new.parts[#new.parts + 1] = {bytes = pack('>I4BI4I7', rule[1], code, cost, at) .. more}
      write(rule)
    end
  end
  changed = true
  if ask == RESERVE then
    till = longer
    hold(new)
  end
end
answer = pack('>BI8', tag, till) .. answer
if not changed then return 'keep', answer end

local record, last = packed_entries()
if #holds == 0 and record == '' then return 'delete', answer end
local head = {pack('>BI7B', 1, held_at, #holds)}
for _, held in ipairs(holds) do
  head[#head + 1] = held.id .. pack('>I7B', held.till, #held.parts)
  for _, taken in ipairs(held.parts) do head[#head + 1] = taken.bytes end
  last = last and math.max(last, held.till)
end
return 'put', answer, table.concat(head) .. record, last and last - now or nil
