-- Takes from several rules, all or none: the twin of rules.rs. Before it stand the algorithms as functions, and entries.lua. Every
-- number here is an integer below 2^53, where a double is exact.
local ALGORITHMS = {token_bucket, token_bucket, fixed_window, sliding_window, sliding_log, calendar}
-- The last bytes of an algorithm's arguments are the cost.
local COST_BYTES = {12, 12, 4, 4, 4, 4}

local function state_of(id, code)
  local entry = live_entry(id, code)
  return entry and entry[4]
end

-- 1 takes, 0 only looks. Then how many rules are in force beside those that are asked, and their numbers.
local takes, others = byte(arguments) == 1, byte(arguments, 2)
local asked, denied, at = {}, false, 3 + 4 * others
while at <= #arguments do
  local id, code, length = unpack('>I4BB', arguments, at)
  local own = sub(arguments, at + 6, at + 5 + length)
  at = at + 6 + length
  local action, output, new_state, ttl = ALGORITHMS[code](state_of(id, code), now, own)
  if action == 'undecodable' then return action, output end
  if byte(output) == 0 then denied = true end
  asked[#asked + 1] = {id, code, own, output, action == 'put' and new_state, ttl}
end

local answer, writes = {}, false
for index, rule in ipairs(asked) do
  local id, code, own, output = rule[1], rule[2], rule[3], rule[4]
  if (denied or not takes) and byte(output) == 1 then
    -- Nothing is taken: those that had enough tell what is there.
    local look = sub(own, 1, -COST_BYTES[code] - 1) .. string.rep('\0', COST_BYTES[code])
    local _
    _, output = ALGORITHMS[code](state_of(id, code), now, look)
  end
  answer[index] = pack('>B', #output) .. output
  writes = writes or rule[5]
end
answer = pack('>I8', now) .. table.concat(answer)
if denied or not takes or not writes then return 'keep', answer end

-- In the place of what it replaces, or at the end.
for _, rule in ipairs(asked) do
  if rule[5] then
    local entry = by_id[rule[1]]
    if not entry then
      entry = {rule[1]}
      count = count + 1
      entries[count] = entry
    end
    entry[2], entry[3], entry[4], entry[5] = rule[2], rule[6] and now + rule[6] or 0, rule[5], true
  end
end
-- What says nothing any more is dropped, and of too many those that have been there longest, first of those not in force.
local kept, live = {}, 0
for _, entry in ipairs(entries) do
  if entry[5] or entry[3] == 0 or entry[3] > now then
    live = live + 1
    kept[live] = entry
  end
end
local excess, in_force = live - ENTRIES_MAX, {}
if excess > 0 then
  for other = 1, others do in_force[unpack('>I4', arguments, 4 * other - 1)] = true end
  for _, rule in ipairs(asked) do in_force[rule[1]] = true end
end
for pass = 1, 2 do
  if excess <= 0 then break end
  local rest = {}
  for _, entry in ipairs(kept) do
    if excess > 0 and not entry[5] and (pass == 2 or not in_force[entry[1]]) then
      excess = excess - 1
    else
      rest[#rest + 1] = entry
    end
  end
  kept = rest
end
local record, last = {pack('>B', 1)}, 0
for _, entry in ipairs(kept) do
  record[#record + 1] = pack('>I4BI7I2', entry[1], entry[2], entry[3], #entry[4]) .. entry[4]
  last = last and entry[3] ~= 0 and math.max(last, entry[3])
end
return 'put', answer, table.concat(record), last and last - now or nil
