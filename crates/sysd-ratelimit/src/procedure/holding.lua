-- Reads the holds of a key, as schema/holds.rs writes them; what is left of the state is for entries.lua. Before it stands taken.lua.
local HOLDS_MAX, RULES_MAX = 64, 16
local holds, held_at = {}, now
if state then
  local size = #state
  if size < 10 or string.byte(state) ~= 1 then return 'undecodable', 'state' end
  local earliest, length = struct.unpack('>I7B', state, 2)
  if earliest > 9007199254740991 or length > HOLDS_MAX then return 'undecodable', 'state' end
  held_at = math.max(earliest, now)
  earliest = earliest + 1
  local at = 10
  for index = 1, length do
    if size - at + 1 < 24 then return 'undecodable', 'state' end
    local till, parts = struct.unpack('>I7B', state, at + 16)
    if till < earliest or till > 9007199254740991 or parts == 0 or parts > RULES_MAX then return 'undecodable', 'state' end
    holds[index] = {id = string.sub(state, at, at + 15), till = till, parts = {}}
    earliest, at = till, at + 24
    for part = 1, parts do
      local taken = read_taken(state, at)
      if not taken then return 'undecodable', 'state' end
      holds[index].parts[part] = taken
      at = at + taken.size
    end
  end
  state = at <= size and '\1' .. string.sub(state, at) or nil
end

