-- Takes from several rules, all or none: the twin of rules.rs. Before it stand the algorithms as functions, and entries.lua. Every
-- number here is an integer below 2^53, where a double is exact.
local ALGORITHMS = {token_bucket, token_bucket, fixed_window, sliding_window, sliding_log, calendar}
-- The last bytes of an algorithm's arguments are the cost.
local COST_BYTES = {12, 12, 4, 4, 4, 4}

local asked, denied, at = {}, false, 1
while at <= #arguments do
  local id, code, length = unpack('>I4BB', arguments, at)
  local own = sub(arguments, at + 6, at + 5 + length)
  at = at + 6 + length
  local entry = live_entry(id, code)
  local action, output, new_state, ttl = ALGORITHMS[code](entry and entry[4], now, own)
  if action == 'undecodable' then return action, output end
  if byte(output) == 0 then denied = true end
  local expires = ttl and now + ttl or 0
  if entry and code <= 2 then
    -- One that got something back keeps its time, for those who still have something to give.
    if entry[3] == 0 then expires = 0 elseif expires ~= 0 then expires = math.max(entry[3], expires) end
  end
  asked[#asked + 1] = {id, code, own, output, action == 'put' and new_state, expires, entry}
end

local answer, writes = {}, false
for index, rule in ipairs(asked) do
  local code, own, output, entry = rule[2], rule[3], rule[4], rule[7]
  if denied and byte(output) == 1 then
    -- Nothing is taken: those that had enough tell what is there.
    local look = sub(own, 1, -COST_BYTES[code] - 1) .. string.rep('\0', COST_BYTES[code])
    local _
    _, output = ALGORITHMS[code](entry and entry[4], now, look)
  end
  answer[index] = pack('>B', #output) .. output
  if code <= 2 then answer[index] = answer[index] .. (entry and entry[6] ~= '' and entry[6] or NOTHING) end
  writes = writes or rule[5]
end
answer = pack('>I8', now) .. table.concat(answer)
if denied or not writes then return 'keep', answer end

-- In the place of what it replaces, or at the end.
for _, rule in ipairs(asked) do
  if rule[5] then
    local entry = by_id[rule[1]]
    if not entry then
      entry = {rule[1]}
      count = count + 1
      entries[count] = entry
    end
    entry[2], entry[3], entry[4], entry[5] = rule[2], rule[6], rule[5], true
    entry[6] = rule[7] and entry[6] or ''
  end
end
-- What says nothing any more is dropped, and of too many those that have been there longest.
local kept, live = {}, 0
for _, entry in ipairs(entries) do
  if entry[5] or entry[3] == 0 or entry[3] > now then
    live = live + 1
    kept[live] = entry
  end
end
local excess, record, last = live - ENTRIES_MAX, {pack('>B', 1)}, 0
for _, entry in ipairs(kept) do
  if excess > 0 and not entry[5] then
    excess = excess - 1
  else
    record[#record + 1] = packed(entry)
    last = last and entry[3] ~= 0 and math.max(last, entry[3])
  end
end
return 'put', answer, table.concat(record), last and last - now or nil
