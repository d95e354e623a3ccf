-- Asks several rules, all or none. Before it stand the algorithms as functions, and entries.lua. Every number here is an integer below
-- 2^53, where a double is exact.
local ALGORITHMS = {token_bucket, token_bucket, fixed_window, sliding_window, sliding_log, calendar}
-- The last bytes of an algorithm's arguments are the cost.
local COST_BYTES = {12, 12, 4, 4, 4, 4}

-- The rules from that place of the arguments on: number, algorithm, its arguments. Asking adds what it answers, the state to write or
-- false, when that expires, and the entry.
local function read_asked(at)
  local asked = {}
  while at <= #arguments do
    local id, code, length = unpack('>I4BB', arguments, at)
    asked[#asked + 1] = {id, code, sub(arguments, at + 6, at + 5 + length)}
    at = at + 6 + length
  end
  return asked
end

local function look_of(code, own)
  return sub(own, 1, -COST_BYTES[code] - 1) .. string.rep('\0', COST_BYTES[code])
end

-- When a rule's state expires that lives so long.
local function expiry_of(entry, code, ttl)
  local expires = ttl and now + ttl or 0
  if entry and code <= 2 then
    -- One that got something back keeps its time, for those who still have something to give.
    if entry[3] == 0 then expires = 0 elseif expires ~= 0 then expires = math.max(entry[3], expires) end
  end
  return expires
end

-- Whether one of them denies; nil if a state is undecodable. Those that are only looked at allow.
local function ask_all(asked, is_look)
  local denied = false
  for _, rule in ipairs(asked) do
    local code, entry = rule[2], live_entry(rule[1], rule[2])
    local own = is_look and look_of(code, rule[3]) or rule[3]
    local action, output, new_state, ttl = ALGORITHMS[code](entry and entry[4], now, own)
    if action == 'undecodable' then return nil end
    if byte(output) == 0 then denied = true end
    rule[4], rule[5], rule[6], rule[7] = output, action == 'put' and new_state, expiry_of(entry, code, ttl), entry
  end
  return denied
end

-- What they answer, and whether one of them has something to write.
local function answer_of(asked, denied)
  local answer, writes = {}, false
  for index, rule in ipairs(asked) do
    local code, own, output, entry = rule[2], rule[3], rule[4], rule[7]
    if denied and byte(output) == 1 then
      -- Nothing is taken: those that had enough tell what is there.
      local _
      _, output = ALGORITHMS[code](entry and entry[4], now, look_of(code, own))
    end
    answer[index] = pack('>B', #output) .. output
    if code <= 2 then answer[index] = answer[index] .. (entry and entry[6] ~= '' and entry[6] or NOTHING) end
    writes = writes or rule[5]
  end
  return pack('>I8', now) .. table.concat(answer), writes
end

-- In the place of what it replaces, or at the end.
local function write(rule)
  local entry = by_id[rule[1]]
  if not entry then
    entry = {rule[1]}
    count = count + 1
    entries[count], by_id[rule[1]] = entry, entry
  end
  entry[2], entry[3], entry[4], entry[5] = rule[2], rule[6], rule[5], true
  entry[6] = rule[7] and entry[6] or ''
end

