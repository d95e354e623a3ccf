-- Reads the states of several rules in one record, as schema/rules.rs writes them.
local LAST_TIME, ENTRIES_MAX, HEADER = 9007199254740991, 64, 14
local byte, sub, pack, unpack = string.byte, string.sub, struct.pack, struct.unpack

-- Of a bucket to which something was given back: the length of its state with how much it was, and nothing.
local GIVEN_TO, NOTHING, NOBODY_KNOWS = 31, string.rep('\0', 8), 4294967295

-- An entry is its number, its algorithm, when it expires, its state, whether it was written now, and what was given back to it ('' or
-- eight bytes).
local entries, count, by_id = {}, 0, {}
if state then
  local at, size = 2, #state
  if size < 2 or byte(state) ~= 1 then return 'undecodable', 'state' end
  while at <= size do
    if size - at + 1 < HEADER then return 'undecodable', 'state' end
    local id, code, expires, length = unpack('>I4BI7I2', state, at)
    at = at + HEADER
    if length == 0 or length > size - at + 1 or expires > LAST_TIME or count == ENTRIES_MAX then
      return 'undecodable', 'state'
    end
    count = count + 1
    local own, given = sub(state, at, at + length - 1), ''
    if (code == 1 or code == 2) and length == GIVEN_TO then
      own, given = sub(own, 1, 23), sub(own, 24)
      local high, low = unpack('>I4I4', given)
      if given == NOTHING or (high == NOBODY_KNOWS and low > 0) then return 'undecodable', 'state' end
    end
    entries[count] = {id, code, expires, own, false, given}
    by_id[id] = by_id[id] or entries[count]
    at = at + length
  end
end

-- That of a rule, if it is of the same algorithm, has not expired and says something.
local function live_entry(id, code)
  local entry = by_id[id]
  if entry and entry[2] == code and (entry[3] == 0 or entry[3] > now) and entry[4] ~= '' then return entry end
end

-- The states, and when the last of them expires (false: never). What says nothing any more is dropped, and of too many those that have
-- been there longest and were not written now: first of those that are not in force, where it is known which are.
local function packed_entries(in_force)
  local kept, live = {}, 0
  for _, entry in ipairs(entries) do
    local is_kept = entry[3] == 0 or entry[3] > now
    if entry[5] then is_kept = entry[4] ~= '' end
    if is_kept then
      live = live + 1
      kept[live] = entry
    end
  end
  local excess, record, last = live - ENTRIES_MAX, {}, 0
  for pass = in_force and 1 or 2, 2 do
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
  for _, entry in ipairs(kept) do
    record[#record + 1] = pack('>I4BI7I2', entry[1], entry[2], entry[3], #entry[4] + #entry[6]) .. entry[4] .. entry[6]
    last = last and entry[3] ~= 0 and math.max(last, entry[3])
  end
  return table.concat(record), last
end
